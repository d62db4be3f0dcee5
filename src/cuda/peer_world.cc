#include "src/cuda/peer_world.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "src/cuda/shot_launches.h"
#include "src/cuda/transfer_launches.h"

namespace tutti::cuda {
namespace {

constexpr uint64_t k_alignment = 256;
constexpr uint64_t k_arena_bytes = uint64_t{4} << 20;
constexpr uint64_t k_slots_bytes = uint64_t{32} << 20;  // of a window, about
constexpr uint64_t k_shots_bytes = uint64_t{4} << 20;   // likewise
// What a block of shots gets from a peer: a unit for each of its threads.
constexpr uint32_t k_shot_block_bytes = k_block_threads * k_unit;
constexpr uint32_t k_shot_blocks = 16;
// Of a launch of transfers, at most; as many as plans take.
constexpr uint32_t k_transfer_blocks = 64;
// For acks that are under way when a communicator ends.
constexpr auto k_patience = std::chrono::milliseconds(200);

uint64_t up(uint64_t bytes) { return (bytes + k_alignment - 1) / k_alignment * k_alignment; }

template <class T>
Result<std::vector<T>> exchange(const T& mine, size_t ranks, const PeerWorld::Gather& gather) {
  std::vector<T> all(ranks);
  TUTTI_RETURN_IF_ERROR(gather(&mine, all.data(), sizeof mine));
  return all;
}

}  // namespace

PeerWorld::Vote::Vote(const Status& status) {
  std::strncpy(why, status.ok() ? "" : status.message().c_str(), sizeof why - 1);
}

Status PeerWorld::Vote::status(Rank rank) const {
  if (why[0] == 0) return {};
  const size_t length = std::min(std::strlen(why), sizeof why - 1);
  return Status(Code::unsupported, fmt::format("rank {}: {}", rank, std::string(why, length)));
}

bool PeerWorld::share_device(const Member& a, const Member& b) {
  return a.host == b.host && std::memcmp(&a.uuid, &b.uuid, sizeof(DeviceUuid)) == 0;
}

PeerWorld::Member PeerWorld::describe(const Runtime& runtime, const Device& device, uint64_t host,
                                      uint32_t blocks, bool shots) {
  Member m;
  m.shots = shots;
  m.host = host;
  m.process = runtime.identity();
  m.uuid = device.uuid();
  m.ordinal = device.ordinal();
  std::strncpy(m.bus_id, runtime.bus_id(device.ordinal()).c_str(), sizeof m.bus_id - 1);
  if (device.cooperative())
    m.blocks = blocks == 0 ? device.multiprocessors() : std::min(blocks, device.multiprocessors());
  return m;
}

std::pair<Rank, Rank> PeerWorld::sharing(const std::vector<Member>& members) {
  for (Rank a = 0; a < members.size(); ++a)
    for (Rank b = a + 1; b < members.size(); ++b)
      if (share_device(members[a], members[b])) return {a, b};
  return {0, 0};
}

std::string PeerWorld::obstacle(const std::vector<Member>& members) {
  if (members.size() > k_max_links)
    return fmt::format("{} ranks, at most {}", members.size(), k_max_links);
  for (Rank r = 0; r < members.size(); ++r)
    if (members[r].blocks == 0)
      return fmt::format("the device of rank {} runs no cooperative grids", r);
  for (Rank a = 0; a < members.size(); ++a)
    for (Rank b = a + 1; b < members.size(); ++b)
      if (share_device(members[a], members[b]) && members[a].process == members[b].process)
        return fmt::format("rank {} and rank {} of one process share a device", a, b);
  if (const auto [a, b] = sharing(members); a != b && several_hosts(members))
    return fmt::format("rank {} and rank {} share a device, and others are on other hosts", a, b);
  return "";
}

bool PeerWorld::several_hosts(const std::vector<Member>& members) {
  return std::any_of(members.begin(), members.end(),
                     [&](const Member& m) { return m.host != members[0].host; });
}

WindowShape PeerWorld::default_shape(uint32_t ranks) {
  WindowShape shape;
  shape.ranks = ranks;
  shape.lanes = k_max_range_lanes;
  shape.workers = 16;
  shape.depth = 4;
  shape.packet_bytes = 4096;
  const uint64_t places = uint64_t{ranks} * shape.lanes * shape.workers * shape.depth;
  shape.slot_bytes = static_cast<uint32_t>(
      std::clamp<uint64_t>(k_slots_bytes / places / 4096 * 4096, 4096, 65536));
  // Two halves of packets that are half flags.
  shape.shot_bytes = k_shot_block_bytes;
  shape.shot_blocks = static_cast<uint32_t>(std::clamp<uint64_t>(
      k_shots_bytes / (uint64_t{ranks} * 4 * k_shot_block_bytes), 1, k_shot_blocks));
  return shape;
}

Result<std::unique_ptr<PeerWorld>> PeerWorld::make(Runtime& runtime, Device& device, Rank rank,
                                                   const std::vector<Member>& members,
                                                   const WindowShape& shape, const Gather& gather,
                                                   Gates::Pages pages) {
  uint32_t blocks = members[0].blocks;
  for (const Member& m : members) blocks = std::min(blocks, m.blocks);
  std::unique_ptr<PeerWorld> world(new PeerWorld(runtime, device, rank, shape, blocks));
  world->shape_.ranks = static_cast<uint32_t>(members.size());
  // Where every rank has a window of its own, and all want shots.
  const bool shots =
      !several_hosts(members) && pages.empty() &&
      std::all_of(members.begin(), members.end(), [](const Member& m) { return m.shots; });
  if (!shots) world->shape_ = world->shape_.without_shots();
  world->pages_ = std::move(pages);
  // Whatever fails here, the others are told: they must not wait for this rank, nor go another way
  // than it.
  const Status opened = world->open_own(members);
  Result<std::vector<Offer>> offers = exchange(world->offer(opened), members.size(), gather);
  if (!offers) return offers.status();
  for (Rank r = 0; r < offers->size(); ++r) TUTTI_RETURN_IF_ERROR((*offers)[r].vote.status(r));
  Result<std::vector<Vote>> votes =
      exchange(Vote(world->open_peers(members, *offers)), members.size(), gather);
  if (!votes) return votes.status();
  for (Rank r = 0; r < votes->size(); ++r) TUTTI_RETURN_IF_ERROR((*votes)[r].status(r));
  return world;
}

Result<std::unique_ptr<PeerWorld>> PeerWorld::open(Runtime& runtime, Device& device, Rank rank,
                                                   uint32_t ranks, const Member& mine) {
  WindowShape shape = default_shape(ranks).without_shots();
  shape.lanes = 0;
  shape.packet_bytes = 0;
  std::unique_ptr<PeerWorld> world(new PeerWorld(runtime, device, rank, shape, mine.blocks));
  TUTTI_RETURN_IF_ERROR(world->open_own(std::vector<Member>(ranks, mine)));
  TUTTI_RETURN_IF_ERROR(world->window_->memory->zero(0, world->window_->bytes));
  world->windows_[rank] = world->window_->memory->data();
  TUTTI_RETURN_IF_ERROR(world->write_program());
  return world;
}

PeerWorld::Offer PeerWorld::offer(const Status& status) const {
  Offer offer;
  offer.vote = Vote(status);
  if (window_ == nullptr) return offer;
  offer.window = window_->memory->address();
  offer.handle = window_->handle;
  return offer;
}

// All that takes memory or loads code, while no grid waits for anyone.
Status PeerWorld::open_own(const std::vector<Member>& members) {
  auto control = Allocation::pinned(runtime_, device_, sizeof(Control));
  if (!control) return control.status();
  control_ = std::move(*control);
  std::memset(control_->data(), 0, sizeof(Control));
  if (!pages_.empty()) {
    auto gates = Gates::open(runtime_, device_, rank_, std::move(pages_));
    if (!gates) return gates.status();
    gates_ = std::move(*gates);
  }
  Result<Event> event = device_.take_event();
  if (!event) return event.status();
  last_ = *event;
  for (Family family : {Family::sum, Family::prod, Family::extremum})
    TUTTI_RETURN_IF_ERROR(device_.function(Kernel::plan, DType::int8, family).status());
  TUTTI_RETURN_IF_ERROR(device_.function(Kernel::transfers, DType::int8, Family::sum).status());
  Result<Place> place = reserve(members.size() * sizeof(TransferLinks) + sizeof(TransferProgram));
  if (!place) return place.status();
  transfers_ = *place;
  auto window = runtime_.windows().take(device_, shape_.bytes());
  if (!window) return window.status();
  window_ = std::move(*window);
  windows_.assign(members.size(), nullptr);
  own_blocks_ = members[rank_].blocks;
  for (const Member& m : members)
    transfer_workers_.push_back(std::min({own_blocks_, m.blocks, shape_.workers}));
  if (!several_hosts(members)) return {};
  std::vector<bool> remote;
  for (const Member& m : members) remote.push_back(m.host != members[rank_].host);
  auto mirrors = Mirrors::make(runtime_, device_, shape_, remote);
  if (!mirrors) return mirrors.status();
  mirrors_ = std::move(*mirrors);
  return {};
}

Status PeerWorld::open_peers(const std::vector<Member>& members, const std::vector<Offer>& offers) {
  // Only now: until all were here, one of them might still have left an earlier world
  // (Inbox::left).
  TUTTI_RETURN_IF_ERROR(window_->memory->zero(0, window_->bytes));
  windows_[rank_] = window_->memory->data();
  TUTTI_RETURN_IF_ERROR(write_program());
  for (Rank r = 0; r < members.size(); ++r) {
    if (r == rank_) continue;
    if (members[r].host == members[rank_].host) {
      Result<std::byte*> mapped = map(r, members[r], offers[r]);
      if (!mapped) return mapped.status();
      windows_[r] = *mapped;
    }
    TUTTI_RETURN_IF_ERROR(write_links(r));
  }
  return {};
}

Status PeerWorld::reach(Rank peer, const Member& mine, const Member& theirs, const Offer& offer) {
  const auto refuse = [&](const char* why) {
    return Status(Code::unsupported, fmt::format("rank {} {}", peer, why));
  };
  TUTTI_RETURN_IF_ERROR(offer.vote.status(peer));
  if (mine.host != theirs.host) return refuse("is on another host");
  if (share_device(mine, theirs)) return refuse("is on the same device");
  if (mine.blocks == 0 || theirs.blocks == 0) return refuse("or this one has no cooperative grids");
  // As above: it is here, and has left whatever was before.
  TUTTI_RETURN_IF_ERROR(clear(peer));
  Result<std::byte*> mapped = map(peer, theirs, offer);
  if (!mapped) return mapped.status();
  windows_[peer] = *mapped;
  transfer_workers_[peer] = std::min({mine.blocks, theirs.blocks, shape_.workers});
  return write_links(peer);
}

// Everything of the peer in this rank's window, but for slots.
Status PeerWorld::clear(Rank peer) {
  const auto zero = [&](uint64_t (WindowShape::*part)(uint32_t, uint32_t) const) {
    const uint64_t begin = (shape_.*part)(peer, 0);
    return window_->memory->zero(begin, (shape_.*part)(peer + 1, 0) - begin);
  };
  for (const auto part : {&WindowShape::inbox, &WindowShape::ack, &WindowShape::counters_out,
                          &WindowShape::counters_in})
    TUTTI_RETURN_IF_ERROR(zero(part));
  return {};
}

// Where this rank's device sees the peer's window.
Result<std::byte*> PeerWorld::map(Rank peer, const Member& theirs, const Offer& offer) {
  if (theirs.process != runtime_.identity()) {
    Result<std::byte*> opened = runtime_.windows().open(device_, offer.handle);
    if (!opened) return opened.status().with_context(fmt::format("the window of rank {}", peer));
    return opened;
  }
  Result<Device*> device = runtime_.device(theirs.ordinal);
  if (!device) return device.status();
  TUTTI_RETURN_IF_ERROR(device_.reach(**device));
  return reinterpret_cast<std::byte*>(offer.window);
}

Status PeerWorld::write_program() {
  TransferProgram program;
  program.links =
      reinterpret_cast<const TransferLinks*>(transfers_.memory->data() + transfers_.offset);
  program.control = control();
  program.depth = std::min(shape_.depth, k_max_depth);
  program.slot_bytes = shape_.slot_bytes;
  return transfers_.memory->write(transfers_.offset + shape_.ranks * sizeof(TransferLinks),
                                  std::as_bytes(std::span(&program, 1)));
}

Status PeerWorld::write_links(Rank peer) {
  const TransferLinks links = transfer_links(request_for(nullptr), peer);
  return transfers_.memory->write(transfers_.offset + peer * sizeof(TransferLinks),
                                  std::as_bytes(std::span(&links, 1)));
}

PeerWorld::~PeerWorld() {
  drain();
  if (last_ != nullptr) device_.give_event(last_);
  if (window_ == nullptr) return;
  const bool reusable = quiet();
  runtime_.windows().give(std::move(window_), reusable);
}

// Whether all that was sent to peers of this host has been acknowledged: then none of them writes
// into the window any more.
bool PeerWorld::quiet() const {
  if (windows_.empty() || windows_[rank_] == nullptr) return true;  // nobody has it
  const uint64_t links = uint64_t{shape_.ranks} * shape_.all_lanes() * shape_.workers;
  std::vector<Ack> acks(links);
  std::vector<Counters> sent(links);
  const auto relayed = [&](uint64_t peer) {
    return mirrors_ != nullptr && mirrors_->all()[peer].here != nullptr;
  };
  // What shots send has been waited for; the word that a call goes by plan has not.
  std::vector<uint64_t> notices(shape_.shots() ? shape_.ranks : 0);
  std::vector<CallCounters> calls(shape_.shots() ? 1 : 0);
  const auto until = std::chrono::steady_clock::now() + k_patience;
  while (std::atomic_ref<uint64_t>(control()->abort).load() == 0) {
    const Allocation& memory = *window_->memory;
    const auto read = [&](uint64_t offset, auto& to) {
      return to.empty() || memory.read(offset, std::as_writable_bytes(std::span(to))).ok();
    };
    if (!read(shape_.ack(0, 0), acks) || !read(shape_.counters_out(0, 0), sent) ||
        !read(shape_.notice(0), notices) || !read(shape_.call_counters(), calls))
      return false;
    bool all = true;
    for (Rank r = 0; r < notices.size(); ++r)
      all = all && (r == rank_ || notices[r] == calls[0].by_plan);
    for (uint64_t link = 0; link < links; ++link)
      all =
          all && (relayed(link / (links / shape_.ranks)) || acks[link].tail == sent[link].messages);
    if (all) return true;
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

void PeerWorld::drain() {
  if (!launched_) return;
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  while (needs_tending() && driver.event_query(last_) == k_not_ready) {
    tend();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  static_cast<void>(driver.event_synchronize(last_));
}

// Asked while other threads capture, whatever their mode.
bool PeerWorld::outstanding() const {
  if (captured_) return true;
  if (!launched_) return false;
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  RelaxedCapture relaxed(driver);
  return driver.event_query(last_) == k_not_ready;
}

std::optional<Rank> PeerWorld::take_awaited() {
  if (gates_ != nullptr) return gates_->awaited();
  const uint64_t peer = std::atomic_ref<uint64_t>(control()->awaited).exchange(0);
  return peer == 0 ? std::nullopt : std::optional<Rank>(static_cast<Rank>(peer - 1));
}

// --- programs

Result<PeerWorld::Place> PeerWorld::reserve(uint64_t bytes) {
  if (arenas_.empty() || arena_used_ + bytes > arena_bytes_) {
    const uint64_t size = std::max(k_arena_bytes, up(bytes));
    auto memory = Allocation::on_device(runtime_, device_, size);
    if (!memory) return memory.status();
    arenas_.push_back(std::move(*memory));
    arena_bytes_ = size;
    arena_used_ = 0;
  }
  const Place place{arenas_.back().get(), arena_used_};
  arena_used_ += up(bytes);
  return place;
}

// Programs made before keep the smaller one.
Status PeerWorld::ensure_scratch(uint64_t bytes) {
  if (bytes <= scratch_bytes_) return {};
  Result<Place> place = reserve(bytes);
  if (!place) return place.status();
  scratch_ = place->memory->data() + place->offset;
  scratch_bytes_ = bytes;
  return {};
}

BuildRequest PeerWorld::request_for(const PlanPtr& plan) const {
  BuildRequest request{plan, rank_, shape_, windows_, scratch_, control(), {}};
  if (mirrors_ != nullptr) request.mirrors = mirrors_->all();
  return request;
}

Status PeerWorld::prepare(const PlanPtr& plan) {
  if (programs_.count(plan.get()) > 0) return {};
  if (plan->shape().ranks != shape_.ranks)
    return Status(Code::invalid_argument,
                  fmt::format("a plan of {} ranks for {}", plan->shape().ranks, shape_.ranks));
  TUTTI_RETURN_IF_ERROR(ensure_scratch(scratch_bound(*plan, shape_)));
  const BuildRequest request = request_for(plan);
  Result<uint64_t> bytes = program_bytes(request);
  if (!bytes) return bytes.status();
  Result<Place> place = reserve(*bytes);
  if (!place) return place.status();
  const uint64_t base = place->memory->address() + place->offset;
  Result<ProgramImage> image = build_program(request, base);
  if (!image) return image.status();
  TUTTI_RETURN_IF_ERROR(place->memory->write(place->offset, image->bytes));
  Program& program = programs_[plan.get()];
  program = {plan, reinterpret_cast<const DeviceProgram*>(base + image->program), {}};
  if (gates_ != nullptr) program.ranges.emplace(plan, rank_, shape_);
  return {};
}

// --- calls

Result<DeviceCut> PeerWorld::cut(const PlanPtr& plan, uint64_t count, DType dtype,
                                 std::optional<Wire> wire) const {
  return fit_cut(plan, count, dtype, shape_, blocks_, wire);
}

Status PeerWorld::usable() const {
  TUTTI_RETURN_IF_ERROR(error());
  return half_enqueued_;
}

// Calls share windows: one ends before the next begins, on whatever streams they are. Whether the
// stream is captured.
Result<bool> PeerWorld::begin(Stream stream) {
  Result<bool> capturing = runtime_.capturing(stream);
  if (!capturing || *capturing || !launched_ || stream == last_stream_) return capturing;
  TUTTI_RETURN_IF_ERROR(runtime_.driver().check(
      runtime_.driver().stream_wait_event(stream, last_, 0), "cuStreamWaitEvent"));
  return capturing;
}

Status PeerWorld::precede(Stream stream) const {
  const Driver& driver = runtime_.driver();
  Result<bool> capturing = runtime_.capturing(stream);
  if (!capturing) return capturing.status();
  if (*capturing || !launched_) return {};
  Scope scope(driver, device_.context());
  return driver.check(driver.stream_wait_event(stream, last_, 0), "cuStreamWaitEvent");
}

// `status`: of what was enqueued since begin().
Status PeerWorld::end(Stream stream, bool capturing, const Status& status) {
  if (!status.ok() && half_enqueued_.ok()) return status;
  if (capturing) {
    captured_ = true;
    return status;
  }
  TUTTI_RETURN_IF_ERROR(
      runtime_.driver().check(runtime_.driver().event_record(last_, stream), "cuEventRecord"));
  last_stream_ = stream;
  launched_ = true;
  return status;
}

// The others must not wait for the rest of a call.
Status PeerWorld::give_up_halfway(const Status& status) {
  half_enqueued_ = status;
  this->abort();
  return status;
}

Status PeerWorld::copy(DevicePtr to, DevicePtr from, uint64_t bytes, Stream stream) {
  return runtime_.driver().check(runtime_.driver().copy(to, from, bytes, stream), "cuMemcpyAsync");
}

Status PeerWorld::launch(const Call& call, Stream stream) {
  TUTTI_RETURN_IF_ERROR(usable());
  TUTTI_RETURN_IF_ERROR(prepare(call.plan));
  Result<DeviceCut> cut = this->cut(call.plan, call.count, call.dtype, call.wire);
  if (!cut) return cut.status();
  Result<bool> launched = launch_shots(call, *cut, stream);
  if (!launched || *launched) return launched.status();
  Result<Function> function = device_.function(Kernel::plan, call.dtype, family_of(call.op));
  if (!function) return function.status();
  PlanLaunch launch{};
  launch.lanes = call.plan->shape().lanes;
  launch.op = operator_of({call.plan, call.count, call.dtype, call.op, cut->wire, cut->workers});
  launch.cut = *cut;
  if (mirrors_ != nullptr) mirrors_->use(launch.lanes, launch.cut.workers);
  Program& program = programs_[call.plan.get()];
  launch.calls[0].program = program.address;
  launch.calls[0].buffers.base[static_cast<int>(Buffer::input)] =
      static_cast<std::byte*>(const_cast<void*>(call.input));
  launch.calls[0].buffers.base[static_cast<int>(Buffer::output)] =
      static_cast<std::byte*>(call.output);
  launch.calls[0].signature = call.signature;
  launch.calls[0].factor = call.factor;

  Scope scope(runtime_.driver(), device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  Result<bool> capturing = begin(stream);
  if (!capturing) return capturing.status();
  if (call.copy_first > 0) {
    std::byte** base = launch.calls[0].buffers.base;
    const auto address = [&](Buffer b) {
      return reinterpret_cast<DevicePtr>(base[static_cast<int>(b)]);
    };
    TUTTI_RETURN_IF_ERROR(
        copy(address(Buffer::output), address(Buffer::input), call.copy_first, stream));
    base[static_cast<int>(Buffer::input)] = base[static_cast<int>(Buffer::output)];
  }
  const uint32_t blocks = launch.lanes * launch.cut.workers;
  return end(stream, *capturing,
             gates_ == nullptr ? run_grid(*function, blocks, launch, stream)
                               : run_ranges(*function, launch, program, stream));
}

// False: the call is one for the interpreter.
Result<bool> PeerWorld::launch_shots(const Call& call, const DeviceCut& cut, Stream stream) {
  if (call.by_plan || call.copy_first > 0) return false;
  const std::optional<ShotCut> shots = shot_cut(call.plan, cut, shape_, blocks_);
  if (!shots) return false;
  Result<Function> function = device_.function(Kernel::shots, call.dtype, family_of(call.op));
  if (!function) return function.status();
  const Operator op = operator_of({call.plan, call.count, call.dtype, call.op, cut.wire, 1});
  ShotLaunch launch = shot_launch(*shots, op, shape_, windows_);
  launch.calls[0] = {static_cast<const std::byte*>(call.input),
                     static_cast<std::byte*>(call.output),
                     call.signature,
                     call.factor,
                     control(),
                     rank_};
  Scope scope(runtime_.driver(), device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  Result<bool> capturing = begin(stream);
  if (!capturing) return capturing.status();
  TUTTI_RETURN_IF_ERROR(
      end(stream, *capturing, run_grid(*function, shots->blocks, launch, stream, shots->threads)));
  return true;
}

Status PeerWorld::launch(std::span<const Transfer> transfers, Stream stream) {
  TUTTI_RETURN_IF_ERROR(usable());
  Result<std::vector<CopyToSelf>> copies = copies_to_self(rank_, transfers);
  if (!copies) return copies.status();
  Scope scope(runtime_.driver(), device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  Result<bool> capturing = begin(stream);
  if (!capturing) return capturing.status();
  for (const CopyToSelf& c : *copies)
    TUTTI_RETURN_IF_ERROR(copy(reinterpret_cast<DevicePtr>(c.to),
                               reinterpret_cast<DevicePtr>(c.from), c.bytes, stream));
  return end(stream, *capturing, run_transfers(transfers, stream));
}

Status PeerWorld::run_transfers(std::span<const Transfer> transfers, Stream stream) {
  Result<Function> function = device_.function(Kernel::transfers, DType::int8, Family::sum);
  if (!function) return function.status();
  std::vector<TransferLaunch> launches = transfer_launches(rank_, transfers, transfer_workers_);
  const uint32_t most = std::min(own_blocks_, k_transfer_blocks);
  if (mirrors_ != nullptr) mirrors_->use(shape_.all_lanes(), shape_.workers);
  for (TransferLaunch& launch : launches) {
    launch.program = reinterpret_cast<const TransferProgram*>(
        transfers_.memory->data() + transfers_.offset + shape_.ranks * sizeof(TransferLinks));
    const Status status = run_grid(*function, transfer_blocks(launch, most), launch, stream);
    if (!status.ok()) return &launch == launches.data() ? status : give_up_halfway(status);
  }
  return {};
}

template <class Launch>
Status PeerWorld::run_grid(Function function, uint32_t blocks, Launch& launch, Stream stream,
                           uint32_t threads) {
  void* parameters[] = {&launch};
  return runtime_.driver().check(runtime_.driver().launch_cooperative(
                                     function, blocks, 1, 1, threads, 1, 1, 0, stream, parameters),
                                 "cuLaunchCooperativeKernel");
}

Status PeerWorld::run_ranges(Function function, PlanLaunch& launch, Program& program,
                             Stream stream) {
  const uint32_t rounds = launch.cut.layout.rounds();
  const uint64_t signature = launch.calls[0].signature;
  Result<uint32_t> count = program.ranges->count(rounds);
  if (!count) return count.status();
  uint32_t number = 0;
  bool begun = false;
  Status status = program.ranges->each(rounds, [&](const Range& range) -> Status {
    launch.range = range.part;
    // Everyone has said by now which call it makes.
    const bool compares = number == 1;
    if (compares) {
      launch.range.gates = gates_->entries();
      launch.range.peers = gates_->ranks();
    }
    if (compares || !range.empty)
      TUTTI_RETURN_IF_ERROR(run_grid(function, launch.lanes * launch.cut.workers, launch, stream));
    begun = true;
    return gates_->pass(stream, ++number, *count, signature);
  });
  return status.ok() || !begun ? status : give_up_halfway(status);
}

void PeerWorld::abort() {
  std::atomic_ref<uint64_t>(control()->abort).store(1, std::memory_order_release);
  if (gates_ == nullptr) return;
  gates_->leave();
  gates_->open();
}

bool PeerWorld::needs_tending() const {
  return gates_ != nullptr &&
         std::atomic_ref<uint64_t>(control()->abort).load(std::memory_order_acquire) != 0;
}

void PeerWorld::tend() {
  if (gates_ == nullptr) return;
  if (const std::optional<Rank> peer = gates_->awaits_in_vain(); peer && !needs_tending()) {
    std::atomic_ref<uint64_t>(control()->left).store(uint64_t{*peer} + 1);
    this->abort();
  }
  if (needs_tending()) gates_->open();
}

Status PeerWorld::error() const {
  const auto read = [](uint64_t& word) {
    return std::atomic_ref<uint64_t>(word).load(std::memory_order_acquire);
  };
  if (const uint64_t peer = read(control()->mismatch); peer != 0)
    return Status(
        Code::invalid_usage,
        fmt::format("rank {} and rank {} made different calls on device buffers", rank_, peer - 1));
  if (const uint64_t peer = read(control()->left); peer != 0)
    return Status(Code::remote_error,
                  fmt::format("rank {}: rank {} left a call on device buffers before its end",
                              rank_, peer - 1));
  return {};
}

}  // namespace tutti::cuda
