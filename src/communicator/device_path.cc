#include "src/communicator/device_path.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>

#include "src/base/hash.h"
#include "src/base/thread.h"
#include "src/communicator/device_links.h"
#include "src/plan/braid.h"
#include "transports/shm/host.h"

namespace tutti {
namespace {

// How often the watch looks, and how long a rank waits for its staged calls before it asks again.
constexpr auto k_watch_turn = std::chrono::milliseconds(50);
constexpr auto k_quiet_turn = std::chrono::milliseconds(1);

Status invalid_usage(std::string message) {
  return Status(Code::invalid_usage, std::move(message));
}

bool reduces(Collective c) {
  return c == Collective::all_reduce || c == Collective::reduce_scatter || c == Collective::reduce;
}

std::string describe(const DeviceOperation& op) {
  return fmt::format(
      "{} of {} {}{}{}", name(op.collective), op.count, name(op.dtype),
      reduces(op.collective) ? fmt::format(" {}", name(op.reduction.op)) : std::string(),
      is_rooted(op.collective) ? fmt::format(" root {}", op.root) : std::string());
}

Status duplicate_device(Rank a, Rank b) {
  return invalid_usage(fmt::format(
      "duplicate GPU: rank {} and rank {} are on the same device; TUTTI_MULTI_RANK_GPU=1 or "
      "NCCL_MULTI_RANK_GPU_ENABLE=1 allows it",
      a, b));
}

uint64_t this_host(const std::string& host_id) {
  const Result<shm::Card> card = shm::make_card(host_id);
  if (!card) return 0;
  uint64_t h = 1;
  for (char c : card->boot_id) h = mix(h, static_cast<unsigned char>(c));
  for (char c : card->host_id) h = mix(h, static_cast<unsigned char>(c));
  return h;
}

cuda::DevicePtr address(const void* p) { return reinterpret_cast<cuda::DevicePtr>(p); }

// A scalar in memory of a device is read when the call runs; one of the host now.
cuda::Factor factor_of(const cuda::Runtime& runtime, const DeviceOperation& op) {
  if (op.reduction.op != ReduceOp::premul_sum) return {};
  if (op.late_scalar == nullptr) return {op.reduction.scalar_bits, nullptr};
  if (runtime.locate(op.late_scalar).device)
    return {0, static_cast<const std::byte*>(op.late_scalar)};
  return {Reduction::premul_sum(op.dtype, op.late_scalar).scalar_bits, nullptr};
}

Transfer transfer_of(const DeviceOperation& op) {
  return {op.sends ? Transfer::Direction::send : Transfer::Direction::recv, op.root,
          op.sends ? const_cast<std::byte*>(static_cast<const std::byte*>(op.send))
                   : static_cast<std::byte*>(op.recv),
          op.count * size_of(op.dtype), op.dtype};
}

// The streams of a group's calls become one: the others wait for it and it for them.
Status join_streams(cuda::Runtime& runtime, cuda::Device& device, cuda::Stream from,
                    cuda::Stream to) {
  Result<cuda::Event> event = device.take_event();
  if (!event) return event.status();
  const cuda::Driver& driver = runtime.driver();
  Status status = driver.check(driver.event_record(*event, from), "cuEventRecord");
  if (status.ok())
    status = driver.check(driver.stream_wait_event(to, *event, 0), "cuStreamWaitEvent");
  device.give_event(*event);
  return status;
}

Status in_progress() {
  return Status(Code::in_progress, "the communicator's ranks are still finding out about devices");
}

}  // namespace

BufferBytes buffer_bytes(const DeviceOperation& op, Rank rank, uint32_t ranks) {
  const size_t block = op.count * size_of(op.dtype), all = block * ranks;
  const bool root = rank == op.root;
  switch (op.collective) {
    case Collective::reduce_scatter:
      return {all, block};
    case Collective::all_gather:
      return {block, all};
    case Collective::broadcast:
      return {root ? block : 0, block};
    case Collective::reduce:
      return {block, root ? block : 0};
    case Collective::all_to_all:
      return {all, all};
    case Collective::gather:
      return {block, root ? all : 0};
    case Collective::scatter:
      return {root ? all : 0, block};
    case Collective::send_recv:
      return {op.sends ? block : 0, op.sends ? 0 : block};
    case Collective::barrier:
      return {};
    default:
      return {block, block};
  }
}

// Peers that group the same calls in another order still meet: collectives keep their order among
// themselves, and transfers come after all of them, as in NCCL.
Status run_on_host(Communicator::Impl& impl, std::span<const DeviceOperation> operations) {
  std::vector<Transfer> transfers;
  for (const DeviceOperation& op : operations) {
    if (op.transfer()) {
      transfers.push_back(transfer_of(op));
      continue;
    }
    const Reduction reduction =
        op.late_scalar == nullptr ? op.reduction : Reduction::premul_sum(op.dtype, op.late_scalar);
    TUTTI_RETURN_IF_ERROR(
        impl.run({op.collective, op.send, op.recv, op.count, op.dtype, reduction, op.root}));
  }
  return transfers.empty() ? Status() : impl.run_uncounted(std::move(transfers));
}

// --- life

Status DevicePath::open(const std::shared_ptr<cuda::Runtime>& runtime) {
  if (staging_ != nullptr) return {};
  Result<cuda::Device*> device = runtime->device(device_);
  if (!device) return device.status();
  Result<Config> config = Config::from_environment();
  if (!config) return config.status();
  runtime_ = runtime;
  pair_with_ = std::make_unique<std::atomic<Pair>[]>(host_.ranks());
  staging_ = std::make_unique<cuda::Staging>(*runtime, **device);
  limits_ = {config->gpu_blocks, config->gpu_copy_engine_bytes};
  shares_device_ = config->multi_rank_gpu;
  shots_ = config->gpu_shots;
  return {};
}

DevicePath::~DevicePath() {
  if (staging_ != nullptr) staging_->drain();
  each_world([](cuda::PeerWorld& world) { world.drain(); });  // the watch still looks after it
  {
    std::lock_guard lock(watch_mutex_);
    ending_ = true;
  }
  watch_changed_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

void DevicePath::drain() {
  if (staging_ != nullptr) staging_->drain();
  each_world([](cuda::PeerWorld& world) { world.drain(); });
}

void DevicePath::stop() {
  each_world([](cuda::PeerWorld& world) { world.abort(); });
}

Status DevicePath::error() const {
  Status status;
  each_world([&](const cuda::PeerWorld& world) {
    if (status.ok()) status = world.error();
  });
  return status;
}

Status DevicePath::check(const DeviceOperation& op) const {
  const BufferBytes bytes = buffer_bytes(op, host_.rank(), host_.ranks());
  if (bytes.send > 0)
    TUTTI_RETURN_IF_ERROR(runtime_->check_buffer("send", op.send, bytes.send, device_));
  if (bytes.recv > 0)
    TUTTI_RETURN_IF_ERROR(runtime_->check_buffer("receive", op.recv, bytes.recv, device_));
  Result<cuda::Device*> device = runtime_->device(device_);
  return device ? runtime_->check_stream(op.stream, **device) : device.status();
}

// --- all ranks in one group

std::vector<DevicePath::World> DevicePath::complete_worlds(std::vector<Task>& tasks) {
  std::map<std::string, std::map<Rank, Task*>> known;
  for (Task& task : tasks)
    if (const std::string& world = task.host->device_path().world_; !world.empty())
      known[world][task.host->rank()] = &task;
  std::vector<World> worlds;
  for (const auto& [id, by_rank] : known) {
    if (by_rank.size() != by_rank.begin()->second->host->ranks()) continue;
    World world;
    for (const auto& [rank, task] : by_rank) world.push_back(task);
    const auto transfers = [](const Task* t) {
      return std::any_of(t->operations.begin(), t->operations.end(),
                         [](const DeviceOperation& op) { return op.transfer(); });
    };
    if (std::none_of(world.begin(), world.end(), transfers)) worlds.push_back(std::move(world));
  }
  return worlds;
}

Status DevicePath::check_devices(const World& world) {
  const auto path = [&](size_t r) -> const DevicePath& { return world[r]->host->device_path(); };
  for (size_t a = 0; a < world.size(); ++a)
    for (size_t b = a + 1; b < world.size(); ++b)
      if (path(a).device_ == path(b).device_ && !path(a).shares_device_)
        return duplicate_device(static_cast<Rank>(a), static_cast<Rank>(b));
  return {};
}

// The k-th operation of every rank as one call.
Result<cuda::GroupCall> DevicePath::join(const World& world, size_t k) {
  const DeviceOperation& first = world[0]->operations[k];
  cuda::GroupCall call;
  call.collective = first.collective;
  call.count = first.count;
  call.dtype = first.dtype;
  call.op = reduces(first.collective) ? first.reduction.op : ReduceOp::sum;
  call.root = first.root;
  for (Rank r = 0; r < world.size(); ++r) {
    const DeviceOperation& op = world[r]->operations[k];
    if (const std::string mine = describe(first), theirs = describe(op); mine != theirs)
      return invalid_usage(fmt::format("rank 0 calls {}, but rank {} calls {}", mine, r, theirs));
    DevicePath& path = world[r]->host->device_path();
    call.ranks.push_back(
        {path.device_, op.stream, op.send, op.recv, factor_of(*path.runtime_, op)});
  }
  return call;
}

// Launches what kernels serve and takes it out of the tasks.
Status DevicePath::launch_world(cuda::Runtime& runtime, const World& world) {
  const size_t operations = world[0]->operations.size();
  for (Rank r = 0; r < world.size(); ++r)
    if (world[r]->operations.size() != operations)
      return invalid_usage(fmt::format("rank 0 makes {} calls in this group, rank {} makes {}",
                                       operations, r, world[r]->operations.size()));
  TUTTI_RETURN_IF_ERROR(check_devices(world));
  std::vector<cuda::GroupCall> calls;
  for (size_t k = 0; k < operations; ++k) {
    Result<cuda::GroupCall> call = join(world, k);
    if (!call) return call.status();
    // Order: one call that has to go another way takes all of the group along.
    if (!cuda::group_serves(*call)) return {};
    calls.push_back(std::move(*call));
  }
  for (size_t k = 0; k < operations; ++k) {
    const Status status = launch_group(runtime, calls[k], world[0]->host->device_path().limits_);
    // Devices that do not reach each other: found out before anything is enqueued.
    if (k == 0 && status.code() == Code::unsupported) return {};
    TUTTI_RETURN_IF_ERROR(status);
  }
  for (Task* task : world) task->operations.clear();
  return {};
}

Status DevicePath::launch_worlds(cuda::Runtime& runtime, std::vector<Task>& tasks) {
  for (const World& world : complete_worlds(tasks))
    TUTTI_RETURN_IF_ERROR(launch_world(runtime, world));
  return {};
}

// --- a device per rank

// A collective takes all ranks, a message two.
DevicePath::Strangers DevicePath::strangers(std::span<const DeviceOperation> operations) const {
  Strangers strangers;
  if (met_.load(std::memory_order_acquire)) return strangers;
  std::set<Rank> peers;
  for (const DeviceOperation& op : operations) {
    const bool to_self = op.transfer() && op.root == host_.rank();
    strangers.all = strangers.all || !op.transfer();
    if (op.transfer() && !to_self && pair_with_[op.root].load() == Pair::unknown)
      peers.insert(op.root);
  }
  strangers.peers.assign(peers.begin(), peers.end());
  return strangers;
}

Status DevicePath::meet(const Strangers& strangers) {
  if (strangers.all) TUTTI_RETURN_IF_ERROR(meet_all());
  if (met_.load(std::memory_order_acquire)) return {};
  TUTTI_RETURN_IF_ERROR(meet_pairs(strangers.peers));
  // Two ranks are all: what they cannot do as a pair, proxies may.
  const bool both = host_.ranks() == 2 && !strangers.peers.empty();
  return both && pair_with_[1 - host_.rank()].load() == Pair::staged ? meet_all() : Status();
}

Result<cuda::PeerWorld::Member> DevicePath::describe_member(cuda::Device& device) const {
  TUTTI_RETURN_IF_ERROR(host_.usable());
  return cuda::PeerWorld::describe(*runtime_, device, this_host(host_.impl()->config().host_id),
                                   limits_.blocks, shots_);
}

namespace {

// What of each peer of a group of meetings, all at the same time.
template <class T>
Status swap_with(Communicator::Impl& impl, const std::vector<Rank>& peers, std::vector<T>& mine,
                 std::vector<T>& theirs) {
  theirs.resize(peers.size());
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < peers.size(); ++i) {
    transfers.push_back({Transfer::Direction::send, peers[i],
                         reinterpret_cast<std::byte*>(&mine[i]), sizeof(T), DType::int8});
    transfers.push_back({Transfer::Direction::recv, peers[i],
                         reinterpret_cast<std::byte*>(&theirs[i]), sizeof(T), DType::int8});
  }
  return impl.run_uncounted(std::move(transfers));
}

}  // namespace

// On the thread of the host calls, and on that of every one of `peers`: where both have a device of
// their own on one host, messages between them go through windows from now on. Both come to the
// same end.
Status DevicePath::meet_pairs(std::vector<Rank> peers) {
  std::erase_if(peers, [&](Rank p) { return pair_with_[p].load() != Pair::unknown; });
  if (peers.empty()) return {};
  Result<cuda::Device*> device = runtime_->device(device_);
  if (!device) return device.status();
  Result<cuda::PeerWorld::Member> me = describe_member(**device);
  if (!me) return me.status();
  Status opened;
  // Kernels that share a device must not wait for others, and other ranks are not asked.
  if (shares_device_) {
    opened = Status(Code::unsupported, "ranks may share devices here");
  } else if (pairs_ == nullptr) {
    auto made = cuda::PeerWorld::open(*runtime_, **device, host_.rank(), host_.ranks(), *me);
    opened = made.status();
    if (made) pairs_ = std::move(*made);
  }
  struct Greeting {
    cuda::PeerWorld::Member member;
    cuda::PeerWorld::Offer offer;
    Communicator::Impl::MemoryOffer messages;  // where this rank's tallies of messages are
  };
  Greeting greeting{*me, {}, {}};
  greeting.offer.vote = cuda::PeerWorld::Vote(opened);
  if (pairs_ != nullptr) greeting.offer = pairs_->offer();
  Communicator::Impl& impl = *host_.impl();
  std::vector<Greeting> greetings(peers.size(), greeting), theirs;
  for (size_t i = 0; i < peers.size(); ++i)
    greetings[i].messages = impl.offer_messages(runtime_->identity(), peers[i]);
  TUTTI_RETURN_IF_ERROR(swap_with(impl, peers, greetings, theirs));
  std::vector<Status> verdicts;
  std::vector<cuda::PeerWorld::Vote> votes, their_votes;
  std::vector<std::shared_ptr<std::byte>> tallies;
  for (size_t i = 0; i < peers.size(); ++i) {
    tallies.push_back(impl.see_memory(peers[i], greetings[i].messages, theirs[i].messages,
                                      MessageTallies::bytes(host_.ranks())));
    verdicts.push_back(pairs_ == nullptr
                           ? opened
                           : pairs_->reach(peers[i], *me, theirs[i].member, theirs[i].offer));
    votes.emplace_back(verdicts[i]);
  }
  TUTTI_RETURN_IF_ERROR(swap_with(impl, peers, votes, their_votes));
  for (size_t i = 0; i < peers.size(); ++i) {
    if (cuda::PeerWorld::share_device(*me, theirs[i].member) && !shares_device_)
      return duplicate_device(std::min(host_.rank(), peers[i]), std::max(host_.rank(), peers[i]));
    if (verdicts[i].ok()) verdicts[i] = their_votes[i].status(peers[i]);
    // Staged messages meet those on host buffers.
    if (verdicts[i].ok()) impl.messages().compare(peers[i], std::move(tallies[i]));
    pair_with_[peers[i]].store(verdicts[i].ok() ? Pair::open : Pair::staged);
    host_.inform(fmt::format("rank {}: messages with rank {} go through {}", host_.rank(), peers[i],
                             verdicts[i].ok() ? "windows" : "the host: " + verdicts[i].message()));
  }
  if (pairs_ != nullptr) worlds_[1].store(pairs_.get(), std::memory_order_release);
  return {};
}

// Collective, on the thread of the host calls: the ranks tell each other what devices they have,
// and make windows where every rank has its own. All of them come to the same end, but for a driver
// that fails. What was staged before has gone: the host runs it in the order of the streams, which
// other ranks do not share.
Status DevicePath::meet_all() {
  if (met_.load(std::memory_order_acquire)) return {};
  TUTTI_RETURN_IF_ERROR(host_.usable());
  Communicator::Impl& impl = *host_.impl();
  Result<cuda::Device*> device = runtime_->device(device_);
  if (!device) return device.status();
  const auto gather = [&](const void* mine, void* all, size_t bytes) {
    return impl.gather_for_devices(mine, all, bytes);
  };
  Result<cuda::PeerWorld::Member> mine = describe_member(**device);
  if (!mine) return mine.status();
  std::vector<cuda::PeerWorld::Member> members(host_.ranks());
  TUTTI_RETURN_IF_ERROR(gather(&*mine, members.data(), sizeof *mine));
  std::string why = cuda::PeerWorld::obstacle(members);
  if (const auto [a, b] = cuda::PeerWorld::sharing(members); a != b && !shares_device_)
    return duplicate_device(a, b);
  if (why.empty() && host_.ranks() > 1) {
    TUTTI_RETURN_IF_ERROR(impl.open_tallies(runtime_->identity()));
    // Ranks that share a device run in ranges, between gates in memory that all of them see.
    cuda::Gates::Pages pages;
    if (const auto [a, b] = cuda::PeerWorld::sharing(members); a != b) {
      auto shared = impl.share_memory(runtime_->identity(), cuda::Gates::page_bytes(host_.ranks()));
      if (!shared) return shared.status();
      pages = std::move(*shared);
    }
    auto made = cuda::PeerWorld::make(*runtime_, **device, host_.rank(), members,
                                      cuda::PeerWorld::default_shape(host_.ranks()), gather,
                                      std::move(pages));
    if (!made && made.status().code() != Code::unsupported) return made.status();
    proxy_ = nullptr;  // of an earlier try
    if (made) peers_ = std::move(*made);
    if (!made) why = made.status().message();
    if (peers_ != nullptr && peers_->mirrors() != nullptr) TUTTI_RETURN_IF_ERROR(open_proxy());
    if (peers_ != nullptr) TUTTI_RETURN_IF_ERROR(make_planner(members, gather));
    if (peers_ != nullptr && peers_->transfers())
      TUTTI_RETURN_IF_ERROR(impl.compare_messages(runtime_->identity()));
  }
  impl.count_calls(peers_ != nullptr);
  worlds_[0].store(peers_.get(), std::memory_order_release);
  met_.store(true, std::memory_order_release);
  if (host_.ranks() > 1)
    host_.inform(fmt::format("rank {}: device buffers go through {}", host_.rank(),
                             !why.empty()        ? "the host: " + why
                             : proxy_ != nullptr ? "windows, and a proxy to ranks on other hosts"
                                                 : "windows"));
  return {};
}

// The connections are a communicator's of their own: those of this one belong to the thread of its
// calls.
Status DevicePath::open_proxy() {
  auto carrier = host_.impl()->split(0, static_cast<int>(host_.rank()), nullptr);
  if (!carrier)
    return carrier.status().with_context(
        fmt::format("rank {}: connections of the proxy", host_.rank()));
  auto proxy = std::make_unique<DeviceProxy>(std::move(*carrier), *peers_);
  TUTTI_RETURN_IF_ERROR(proxy->open());
  proxy_ = std::move(proxy);
  return {};
}

// Of one host rank 0 has looked for all.
Status DevicePath::make_planner(const std::vector<cuda::PeerWorld::Member>& members,
                                const cuda::PeerWorld::Gather& gather) {
  const Communicator::Impl& impl = *host_.impl();
  const bool several_hosts = cuda::PeerWorld::several_hosts(members);
  std::string seen =
      host_.rank() == 0 && !several_hosts ? look_at_devices(impl.config()) : std::string();
  uint64_t bytes = seen.size();
  std::vector<uint64_t> sizes(host_.ranks());
  TUTTI_RETURN_IF_ERROR(gather(&bytes, sizes.data(), sizeof bytes));
  bytes = sizes[0];
  std::string all(bytes * host_.ranks(), '\0');
  seen.resize(bytes);
  if (bytes > 0) TUTTI_RETURN_IF_ERROR(gather(seen.data(), all.data(), bytes));
  std::vector<std::string> bus_ids;
  DeviceWorld world;
  for (const cuda::PeerWorld::Member& m : members) {
    bus_ids.emplace_back(m.bus_id);
    const auto here = std::count_if(members.begin(), members.end(), [&](const auto& other) {
      return cuda::PeerWorld::share_device(m, other);
    });
    world.turns = std::max(world.turns, static_cast<uint32_t>(here));
  }
  world.ranks = host_.ranks();
  world.topology = device_topology(all.substr(0, bytes), bus_ids);
  world.window = peers_->shape();
  world.blocks = peers_->blocks();
  const Planner& planner = impl.planner();
  if (several_hosts) world.hosts = std::make_shared<const Placement>(planner.placement());
  planner_ = std::make_unique<DevicePlanner>(std::move(world), planner.profile(), planner.rules(),
                                             planner.deterministic());
  return {};
}

// Calls that have to wait for other ranks first: every rank of this process meets on the thread of
// its host calls, and the last one to come enqueues for all. A thread whose rank has come goes on
// with host calls, which staged calls of other groups may need; its later Starts come behind this
// one.
class DevicePath::Start : public std::enable_shared_from_this<DevicePath::Start> {
 public:
  Start(std::shared_ptr<cuda::Runtime> runtime, std::vector<Task> tasks)
      : runtime_(std::move(runtime)), tasks_(std::move(tasks)), missing_(tasks_.size()) {
    for (const Task& task : tasks_) {
      members_.push_back({task.host, task.host->device_path().strangers(task.operations)});
      waits_ = waits_ && task.host->blocking();
    }
  }

  Status run() {
    for (const Member& m : members_) m.path().line_up(this);
    const Member* own = nullptr;  // this thread's; it meets here
    for (const Member& m : members_)
      if (m.host->here() && (waits_ || m.path().is_next(this))) {
        own = &m;
      } else {
        post(m);
      }
    if (own != nullptr) arrive(own->path().meet(own->strangers));
    if (!waits_ && own == nullptr) return in_progress();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
    return outcome_;
  }

 private:
  struct Member {
    std::shared_ptr<Host> host;
    Strangers strangers;
    DevicePath& path() const { return host->device_path(); }
  };

  // Behind the calls of the host, staged ones too.
  void post(const Member& member) {
    auto again = std::make_shared<bool>(false);
    member.host->post(
        [this, self = shared_from_this(), member, again]() -> Status {
          const bool turn = member.path().is_next(this);
          if (turn && member.strangers.none()) return {};
          *again = !turn || !member.path().staging_->quiet();
          if (!*again) return member.path().meet(member.strangers);
          std::this_thread::sleep_for(k_quiet_turn);
          return {};
        },
        [self = shared_from_this(), member, again](const Status& status) {
          if (status.ok() && *again) return self->post(member);
          self->arrive(status);
          self->stay(member);
        });
  }

  void arrive(const Status& status) {
    {
      std::lock_guard lock(mutex_);
      if (outcome_.ok()) outcome_ = status;
      if (--missing_ > 0) return;
    }
    finish();
  }

  // The communicator has work until all is enqueued: nobody destroys it.
  void stay(const Member& member) {
    if (done()) return;
    member.host->post(
        [self = shared_from_this()]() -> Status {
          if (!self->done()) std::this_thread::sleep_for(k_quiet_turn);
          return {};
        },
        [self = shared_from_this(), member](const Status&) { self->stay(member); });
  }
  bool done() {
    std::lock_guard lock(mutex_);
    return done_;
  }

  void finish() {
    Status enqueued = outcome_.ok() ? launch_worlds(*runtime_, tasks_) : outcome_;
    if (enqueued.ok()) enqueued = go(*runtime_, tasks_);
    for (const Member& m : members_) {
      m.path().step_out(this);
      if (!enqueued.ok() && !m.host->blocking()) m.host->add_async_error(enqueued);
    }
    std::lock_guard lock(mutex_);
    outcome_ = std::move(enqueued);
    tasks_.clear();
    done_ = true;
    changed_.notify_all();
  }

  std::shared_ptr<cuda::Runtime> runtime_;
  std::vector<Task> tasks_;
  std::vector<Member> members_;
  bool waits_ = true;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t missing_;
  bool done_ = false;
  Status outcome_;
};

void DevicePath::line_up(const Start* start) {
  std::lock_guard lock(starts_mutex_);
  starts_.push_back(start);
  starting_.fetch_add(1);
}

bool DevicePath::is_next(const Start* start) {
  std::lock_guard lock(starts_mutex_);
  return starts_.front() == start;
}

void DevicePath::step_out(const Start* start) {
  std::lock_guard lock(starts_mutex_);
  starts_.erase(std::find(starts_.begin(), starts_.end(), start));
  starting_.fetch_sub(1);
}

Result<cuda::PeerWorld::Call> DevicePath::peer_call(const DeviceOperation& op) {
  cuda::PeerWorld::Call call;
  call.count = op.count;
  call.dtype = op.dtype;
  call.op = reduces(op.collective) ? op.reduction.op : ReduceOp::sum;
  call.factor = factor_of(*runtime_, op);
  const BufferBytes bytes = buffer_bytes(op, host_.rank(), host_.ranks());
  call.input = bytes.send > 0 ? op.send : nullptr;
  call.output = bytes.recv > 0 ? op.recv : nullptr;

  const Rank root = is_rooted(op.collective) ? op.root : 0;
  const bool here =
      bytes.send > 0 && bytes.recv > 0 &&
      lie_in_place(op.collective, op.send, op.recv, host_.rank() * op.count * size_of(op.dtype));
  Result<DevicePlanner::Chosen> chosen =
      planner_->choose({op.collective, op.count, op.dtype, call.op, root, here});
  if (!chosen) return chosen.status();
  call.plan = chosen->plan;
  call.wire = chosen->wire;
  if (chosen->copy_first) call.copy_first = bytes.recv;
  call.signature = mix(mix(mix(1, op.count), root), static_cast<uint64_t>(op.collective) << 16 |
                                                        static_cast<uint64_t>(call.dtype) << 8 |
                                                        static_cast<uint64_t>(call.op));
  return call;
}

// What a task launches on its peers.
struct DevicePath::Prepared {
  Task* task;
  std::vector<std::pair<cuda::PeerWorld::Call, DeviceOperation>> collectives;
  cuda::PeerWorld* world = nullptr;  // of the transfers
  std::vector<Transfer> transfers;
  std::vector<cuda::Stream> streams;  // of them
};

// Takes what windows serve out of the task.
Result<DevicePath::Prepared> DevicePath::prepare(Task& task) {
  DevicePath& path = task.host->device_path();
  Prepared prepared{&task, {}, nullptr, {}, {}};
  const auto served = [&](const DeviceOperation& op) {
    return op.transfer() ? path.world_to(op.root) != nullptr : path.peers() != nullptr;
  };
  for (const DeviceOperation& op : task.operations) {
    if (!served(op)) continue;
    if (op.transfer()) {
      prepared.world = path.world_to(op.root);
      prepared.transfers.push_back(transfer_of(op));
      if (std::count(prepared.streams.begin(), prepared.streams.end(), op.stream) == 0)
        prepared.streams.push_back(op.stream);
      continue;
    }
    Result<cuda::PeerWorld::Call> call = path.peer_call(op);
    if (!call) return call.status();
    TUTTI_RETURN_IF_ERROR(path.peers_->prepare(call->plan));
    prepared.collectives.emplace_back(*call, op);
  }
  TUTTI_RETURN_IF_ERROR(copies_to_self(path.host_.rank(), prepared.transfers).status());
  std::erase_if(task.operations, served);
  return prepared;
}

cuda::PeerWorld* DevicePath::world_to(Rank peer) const {
  if (cuda::PeerWorld* world = peers()) return world->transfers() ? world : nullptr;
  return peer == host_.rank() || pair_with_[peer].load() == Pair::open ? pairs_.get() : nullptr;
}

// Calls run one after the other also where the pairs had a world before all did.
Status DevicePath::follow_pairs(const cuda::PeerWorld& world, cuda::Stream stream) const {
  return pairs_ == nullptr || &world == pairs_.get() ? Status() : pairs_->precede(stream);
}

Status DevicePath::launch(const cuda::PeerWorld::Call& call, const DeviceOperation& op) {
  TUTTI_RETURN_IF_ERROR(start_watcher());
  TUTTI_RETURN_IF_ERROR(follow_pairs(*peers_, op.stream));
  host_.impl()->tally_device_call(
      {op.collective, op.send, op.recv, op.count, op.dtype, op.reduction, op.root});
  TUTTI_RETURN_IF_ERROR(peers_->launch(call, op.stream));
  watch();
  return {};
}

// On the first of their streams, between events that join the others.
Status DevicePath::launch(cuda::PeerWorld& world, std::span<const Transfer> transfers,
                          std::span<const cuda::Stream> streams) {
  Result<cuda::Device*> device = runtime_->device(device_);
  if (!device) return device.status();
  TUTTI_RETURN_IF_ERROR(start_watcher());
  for (cuda::Stream other : streams.subspan(1))
    TUTTI_RETURN_IF_ERROR(join_streams(*runtime_, **device, other, streams[0]));
  TUTTI_RETURN_IF_ERROR(follow_pairs(world, streams[0]));
  TUTTI_RETURN_IF_ERROR(world.launch(transfers, streams[0]));
  watch();
  for (cuda::Stream other : streams.subspan(1))
    TUTTI_RETURN_IF_ERROR(join_streams(*runtime_, **device, streams[0], other));
  return {};
}

// Launches what windows serve and takes it out of the tasks; the transfers of a group after its
// collectives.
Status DevicePath::launch_on_peers(std::vector<Task>& tasks) {
  const auto named = [](const Status& status, const Task& task) {
    return status.with_context(fmt::format("rank {}", task.host->rank()));
  };
  std::vector<Prepared> all;
  for (Task& task : tasks) {
    Result<Prepared> prepared = prepare(task);
    if (!prepared) return named(prepared.status(), task);
    all.push_back(std::move(*prepared));
  }
  for (const Prepared& p : all) {
    DevicePath& path = p.task->host->device_path();
    for (const auto& [call, op] : p.collectives)
      if (Status status = path.launch(call, op); !status.ok()) return named(status, *p.task);
    if (p.transfers.empty()) continue;
    if (Status status = path.launch(*p.world, p.transfers, p.streams); !status.ok())
      return named(status, *p.task);
  }
  return {};
}

// --- the watch

Status DevicePath::start_watcher() {
  std::lock_guard lock(watch_mutex_);
  if (watcher_.joinable()) return {};
  Result<std::thread> thread = start_thread([this] { watch_loop(); });
  if (!thread) return thread.status();
  watcher_ = std::move(*thread);
  return {};
}

void DevicePath::watch() {
  if (proxy_ != nullptr) proxy_->wake();
  std::lock_guard lock(watch_mutex_);
  if (watching_) return;
  watching_ = true;
  watch_changed_.notify_all();
}

void DevicePath::watch_loop() {
  std::unique_lock lock(watch_mutex_);
  while (!ending_) {
    watch_changed_.wait(lock, [&] { return ending_ || watching_; });
    while (watching_ && !ending_) {
      const auto turn = needs_tending() ? k_quiet_turn : k_watch_turn;
      watch_changed_.wait_for(lock, turn, [&] { return ending_; });
      if (ending_) return;
      lock.unlock();
      const bool goes_on = look();
      lock.lock();
      // A launch comes before watch(): what is not seen here is told there.
      if (!goes_on) watching_ = false;
    }
  }
}

bool DevicePath::outstanding() const {
  bool any = false;
  each_world([&](const cuda::PeerWorld& world) { any = any || world.outstanding(); });
  return any;
}
bool DevicePath::needs_tending() const {
  bool any = false;
  each_world([&](const cuda::PeerWorld& world) { any = any || world.needs_tending(); });
  return any;
}
void DevicePath::tend() {
  each_world([](cuda::PeerWorld& world) { world.tend(); });
}
std::optional<Rank> DevicePath::take_awaited() {
  std::optional<Rank> awaited;
  each_world([&](cuda::PeerWorld& world) {
    if (!awaited) awaited = world.take_awaited();
  });
  return awaited;
}

// A peer that gave up a call had a reason, which it tells all ranks: better than that it left.
Status DevicePath::reason_of(const Status& left) {
  constexpr int k_turns = 10;
  for (int turn = 0; turn < k_turns; ++turn) {
    std::vector<Rank> gone;
    if (Status told = host_.impl()->look(&gone); !told.ok()) return told;
    tend();
    std::this_thread::sleep_for(k_watch_turn);
  }
  return left;
}

// One look at kernels and peers; false when there is nothing to look after.
bool DevicePath::look() {
  Communicator::Impl& impl = *host_.impl();
  Rank culprit = host_.rank();
  tend();
  Status status = error();
  if (status.ok() && !outstanding()) {
    // What has passed without waiting may be what a peer waits for with another kind of buffer.
    std::vector<Rank> ignored;
    if (impl.messages().tells()) static_cast<void>(impl.look(&ignored));
    return false;
  }
  if (impl.broken() && needs_tending()) return outstanding();
  if (status.code() == Code::remote_error) status = reason_of(status);
  std::vector<Rank> gone;
  if (status.ok()) status = impl.look(&gone);
  const std::vector<Rank> dead = gone;
  DeviceProxy* proxy = met_.load(std::memory_order_acquire) ? proxy_.get() : nullptr;
  if (proxy != nullptr) gone = proxy->ended(dead);
  if (status.ok()) status = impl.contradiction(nullptr).value_or(Status());
  // Who was gone at the last turn, and is waited for since.
  if (const std::optional<Rank> awaited = take_awaited();
      status.ok() && awaited && std::count(gone_.begin(), gone_.end(), *awaited) > 0) {
    culprit = *awaited;
    const bool is_dead = std::count(dead.begin(), dead.end(), culprit) > 0;
    status = impl.lost_during_device_call(culprit, is_dead ? Status() : proxy->status(culprit));
  }
  gone_ = std::move(gone);
  if (status.ok()) return true;
  if (!impl.fail(status, culprit)) return true;  // at the next turn
  stop();
  host_.add_async_error(impl.first_error());
  return needs_tending();
}

// --- staging

struct DevicePath::Staged {
  std::shared_ptr<Host> host;
  cuda::Staging::Ticket* ticket = nullptr;
  cuda::Stream stream = nullptr;
  std::vector<cuda::Stream> others;
};

namespace {

// In a thread of the driver: hands the call to the thread of the host calls.
void run_staged(const std::weak_ptr<DevicePath::Host>& weak, cuda::Staging::Ticket* ticket,
                std::vector<DeviceOperation> operations) {
  std::shared_ptr<DevicePath::Host> host = weak.lock();
  if (host == nullptr) return ticket->answer();
  DevicePath::Host& h = *host;
  h.post(
      [&h, operations = std::move(operations)]() -> Status {
        TUTTI_RETURN_IF_ERROR(h.usable());
        const auto uncounted = h.impl()->leave_uncounted();
        return run_on_host(*h.impl(), operations);
      },
      [host, ticket](const Status& status) {
        if (!status.ok()) host->add_async_error(status);
        ticket->answer();
      });
}

}  // namespace

Result<DevicePath::Staged> DevicePath::post_staged(cuda::Runtime& runtime, Task& task) {
  DevicePath& path = task.host->device_path();
  Result<cuda::Device*> device = runtime.device(path.device_);
  if (!device) return device.status();
  Staged staged;
  staged.host = task.host;
  staged.stream = task.operations[0].stream;
  std::vector<cuda::Staging::Buffer> buffers;
  for (const DeviceOperation& op : task.operations) {
    if (op.stream != staged.stream &&
        std::find(staged.others.begin(), staged.others.end(), op.stream) == staged.others.end())
      staged.others.push_back(op.stream);
    const BufferBytes bytes = buffer_bytes(op, task.host->rank(), task.host->ranks());
    buffers.push_back({address(op.send), bytes.send, true, false});
    buffers.push_back({address(op.recv), bytes.recv, false, true});
    const bool scalar_there = op.late_scalar != nullptr && runtime.locate(op.late_scalar).device;
    buffers.push_back({address(op.late_scalar), scalar_there ? size_of(op.dtype) : 0, true, false});
  }
  Result<cuda::Staging::Ticket*> ticket = path.staging_->prepare(staged.stream, std::move(buffers));
  if (!ticket) return ticket.status();
  staged.ticket = *ticket;
  for (cuda::Stream other : staged.others)
    TUTTI_RETURN_IF_ERROR(join_streams(runtime, **device, other, staged.stream));
  std::vector<DeviceOperation> on_host = task.operations;
  for (size_t i = 0; i < on_host.size(); ++i) {
    DeviceOperation& op = on_host[i];
    op.send = staged.ticket->host(3 * i);
    op.recv = staged.ticket->host(3 * i + 1);
    if (staged.ticket->host(3 * i + 2) != nullptr) op.late_scalar = staged.ticket->host(3 * i + 2);
  }
  TUTTI_RETURN_IF_ERROR(
      path.staging_->post(*staged.ticket, staged.stream,
                          [weak = std::weak_ptr<Host>(task.host), ticket = staged.ticket,
                           on_host = std::move(on_host)] { run_staged(weak, ticket, on_host); }));
  return staged;
}

Status DevicePath::finish_staged(cuda::Runtime& runtime, const Staged& staged) {
  DevicePath& path = staged.host->device_path();
  TUTTI_RETURN_IF_ERROR(path.staging_->finish(*staged.ticket, staged.stream));
  Result<cuda::Device*> device = runtime.device(path.device_);
  if (!device) return device.status();
  for (cuda::Stream other : staged.others)
    TUTTI_RETURN_IF_ERROR(join_streams(runtime, **device, staged.stream, other));
  return {};
}

// All are told to the host before any stream waits: streams may share a queue of the device.
Status DevicePath::stage(cuda::Runtime& runtime, std::vector<Task>& tasks) {
  std::vector<Staged> posted;
  for (Task& task : tasks) {
    if (task.operations.empty()) continue;
    Result<Staged> staged = post_staged(runtime, task);
    if (!staged) return staged.status().with_context(fmt::format("rank {}", task.host->rank()));
    posted.push_back(std::move(*staged));
  }
  for (const Staged& staged : posted) TUTTI_RETURN_IF_ERROR(finish_staged(runtime, staged));
  return {};
}

// --- all ways

// All ranks that had to meet have met.
Status DevicePath::go(cuda::Runtime& runtime, std::vector<Task>& tasks) {
  for (const Task& task : tasks)
    if (Communicator::Impl* impl = task.host->impl(); impl->broken()) return impl->first_error();
  TUTTI_RETURN_IF_ERROR(launch_on_peers(tasks));
  return stage(runtime, tasks);
}

Status DevicePath::enqueue(std::vector<Task> tasks) {
  Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process();
  if (!runtime) return runtime.status();
  for (Task& task : tasks) {
    DevicePath& path = task.host->device_path();
    TUTTI_RETURN_IF_ERROR(path.open(*runtime));
    for (const DeviceOperation& op : task.operations)
      TUTTI_RETURN_IF_ERROR(path.check(op).with_context(fmt::format("rank {}", task.host->rank())));
  }
  // Behind calls that are not enqueued yet.
  bool starts = std::any_of(tasks.begin(), tasks.end(), [](const Task& task) {
    return task.host->device_path().starting_.load() > 0 || task.host->impl() == nullptr;
  });
  if (!starts) TUTTI_RETURN_IF_ERROR(launch_worlds(**runtime, tasks));
  for (const Task& task : tasks) {
    DevicePath& path = task.host->device_path();
    if (path.strangers(task.operations).none()) continue;
    if (task.host->blocking()) path.staging_->drain();
    starts = true;
  }
  if (starts) return std::make_shared<Start>(*runtime, std::move(tasks))->run();
  return go(**runtime, tasks);
}

}  // namespace tutti
