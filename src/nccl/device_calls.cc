#include "src/nccl/device_calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "src/nccl/errors.h"
#include "src/nccl/log.h"
#include "transports/shm/host.h"

namespace tutti::nccl {
namespace {

using Kind = Operation::Kind;

Collective collective_of(Kind kind) {
  switch (kind) {
    case Kind::all_reduce:
      return Collective::all_reduce;
    case Kind::reduce_scatter:
      return Collective::reduce_scatter;
    case Kind::all_gather:
      return Collective::all_gather;
    case Kind::broadcast:
      return Collective::broadcast;
    case Kind::reduce:
      return Collective::reduce;
    case Kind::all_to_all:
      return Collective::all_to_all;
    case Kind::gather:
      return Collective::gather;
    case Kind::scatter:
      return Collective::scatter;
    default:
      return Collective::send_recv;
  }
}

cuda::Stream stream_of(const Operation& op) { return reinterpret_cast<cuda::Stream>(op.stream); }

Status check_operation(cuda::Runtime& runtime, const Comm& comm, const Operation& op) {
  const Comm::Bytes bytes = comm.bytes_of(op);
  if (bytes.send > 0)
    TUTTI_RETURN_IF_ERROR(runtime.check_buffer("send", op.send, bytes.send, comm.device()));
  if (bytes.recv > 0)
    TUTTI_RETURN_IF_ERROR(runtime.check_buffer("receive", op.recv, bytes.recv, comm.device()));
  Result<cuda::Device*> device = runtime.device(comm.device());
  return device ? runtime.check_stream(stream_of(op), **device) : device.status();
}

std::string describe(const Operation& op) {
  return fmt::format("{} of {} {}{}{}", name(collective_of(op.kind)), op.count, name(op.dtype()),
                     op.reduces() ? fmt::format(" {}", name(op.reduction.op)) : std::string(),
                     op.rooted() ? fmt::format(" root {}", op.root) : std::string());
}

// --- all ranks in one group

// The tasks of a communicator whose ranks are all here, by rank.
using World = std::vector<DeviceTask*>;

std::vector<World> complete_worlds(std::vector<DeviceTask>& tasks) {
  std::map<std::string, std::map<Rank, DeviceTask*>> known;
  for (DeviceTask& task : tasks)
    if (!task.comm->world().empty()) known[task.comm->world()][task.comm->rank()] = &task;
  std::vector<World> worlds;
  for (const auto& [id, by_rank] : known) {
    if (by_rank.size() != by_rank.begin()->second->comm->ranks()) continue;
    World world;
    for (const auto& [rank, task] : by_rank) world.push_back(task);
    const auto transfers = [](const DeviceTask* t) {
      return std::any_of(t->operations.begin(), t->operations.end(),
                         [](const Operation& op) { return op.transfer(); });
    };
    if (std::none_of(world.begin(), world.end(), transfers)) worlds.push_back(std::move(world));
  }
  return worlds;
}

Status duplicate_device(Rank a, Rank b) {
  return invalid_usage(fmt::format(
      "duplicate GPU: rank {} and rank {} are on the same device; TUTTI_MULTI_RANK_GPU=1 or "
      "NCCL_MULTI_RANK_GPU_ENABLE=1 allows it",
      a, b));
}

Status check_devices(const World& world) {
  for (size_t a = 0; a < world.size(); ++a)
    for (size_t b = a + 1; b < world.size(); ++b)
      if (world[a]->comm->device() == world[b]->comm->device() &&
          !world[a]->comm->device_state().shares_device)
        return duplicate_device(static_cast<Rank>(a), static_cast<Rank>(b));
  return {};
}

// The k-th operation of every rank as one call.
Result<cuda::GroupCall> join(const World& world, size_t k) {
  const Operation& first = world[0]->operations[k];
  cuda::GroupCall call;
  call.collective = collective_of(first.kind);
  call.count = first.count;
  call.dtype = first.dtype();
  call.op = first.reduces() ? first.reduction.op : ReduceOp::sum;
  call.root = static_cast<Rank>(first.root);
  for (Rank r = 0; r < world.size(); ++r) {
    const Operation& op = world[r]->operations[k];
    if (const std::string mine = describe(first), theirs = describe(op); mine != theirs)
      return invalid_usage(fmt::format("rank 0 calls {}, but rank {} calls {}", mine, r, theirs));
    call.ranks.push_back({world[r]->comm->device(), stream_of(op), op.send, op.recv});
  }
  return call;
}

// Launches what kernels serve and takes it out of the tasks.
Status launch_world(cuda::Runtime& runtime, const World& world) {
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
    // Order: one call that has to be staged stages all of the group.
    if (!cuda::group_serves(*call)) return {};
    calls.push_back(std::move(*call));
  }
  for (size_t k = 0; k < operations; ++k) {
    const Status status = launch_group(runtime, calls[k], world[0]->comm->device_state().limits);
    // Devices that do not reach each other: found out before anything is enqueued.
    if (k == 0 && status.code() == Code::unsupported) return {};
    TUTTI_RETURN_IF_ERROR(status);
  }
  for (DeviceTask* task : world) task->operations.clear();
  return {};
}

// --- a device per rank

uint64_t mix(uint64_t h, uint64_t word) {
  h = (h ^ word) * 0x9E3779B97F4A7C15;
  return h ^ h >> 29;
}

uint64_t this_host(const std::string& host_id) {
  const Result<shm::Card> card = shm::make_card(host_id);
  if (!card) return 0;
  uint64_t h = 1;
  for (char c : card->boot_id) h = mix(h, static_cast<unsigned char>(c));
  for (char c : card->host_id) h = mix(h, static_cast<unsigned char>(c));
  return h;
}

// Collective, on the communicator's lane: the ranks tell each other what devices they have, and
// make windows where every rank has its own. All of them come to the same end, but for a driver
// that fails.
Status meet(cuda::Runtime& runtime, Comm& comm) {
  DeviceState& state = comm.device_state();
  TUTTI_RETURN_IF_ERROR(comm.usable());
  Result<cuda::Device*> device = runtime.device(comm.device());
  if (!device) return device.status();
  const auto gather = [&](const void* mine, void* all, size_t bytes) {
    return comm.communicator()->all_gather(mine, all, bytes, DType::int8);
  };
  const cuda::PeerWorld::Member mine =
      cuda::PeerWorld::describe(runtime, **device, this_host(state.host_id), state.limits.blocks);
  std::vector<cuda::PeerWorld::Member> members(comm.ranks());
  TUTTI_RETURN_IF_ERROR(gather(&mine, members.data(), sizeof mine));
  std::string why = cuda::PeerWorld::obstacle(members);
  if (const auto [a, b] = cuda::PeerWorld::sharing(members); a != b && !state.shares_device)
    return duplicate_device(a, b);
  if (why.empty() && comm.ranks() > 1) {
    auto made = cuda::PeerWorld::make(runtime, **device, comm.rank(), members,
                                      cuda::PeerWorld::default_shape(comm.ranks()), gather);
    if (!made && made.status().code() != Code::unsupported) return made.status();
    if (made) state.peers = std::move(*made);
    if (!made) why = made.status().message();
  }
  state.met.store(true, std::memory_order_release);
  if (!why.empty() && logs(LogLevel::info, Subsystem::init))
    log_line(LogLevel::info, Subsystem::init,
             fmt::format("rank {}: device buffers go through the host: {}", comm.rank(), why));
  return {};
}

// One thread may drive several ranks: they meet at the same time. What was staged before must have
// gone: the host runs it in the order of the streams, which other ranks do not share.
Status meet_all(const std::shared_ptr<cuda::Runtime>& runtime, std::vector<DeviceTask>& tasks) {
  struct Outcome {
    std::mutex mutex;
    std::condition_variable changed;
    size_t waiting = 0;
    Status first;
  };
  auto outcome = std::make_shared<Outcome>();
  for (DeviceTask& task : tasks) {
    DeviceState& state = task.comm->device_state();
    const bool collective = std::any_of(task.operations.begin(), task.operations.end(),
                                        [](const Operation& op) { return !op.transfer(); });
    if (!collective || state.met.load(std::memory_order_acquire)) continue;
    state.staging->drain();
    {
      std::lock_guard lock(outcome->mutex);
      ++outcome->waiting;
    }
    task.comm->post([runtime, comm = task.comm.get()] { return meet(*runtime, *comm); },
                    [outcome](const Status& status) {
                      std::lock_guard lock(outcome->mutex);
                      if (outcome->first.ok()) outcome->first = status;
                      --outcome->waiting;
                      outcome->changed.notify_all();
                    });
  }
  std::unique_lock lock(outcome->mutex);
  outcome->changed.wait(lock, [&] { return outcome->waiting == 0; });
  return outcome->first;
}

bool in_place(const Comm& comm, const Operation& op) {
  const auto* send = static_cast<const std::byte*>(op.send);
  const auto* recv = static_cast<const std::byte*>(op.recv);
  const size_t own = comm.rank() * op.count * size_of(op.dtype());
  switch (op.kind) {
    case Kind::all_gather:
    case Kind::gather:
      return send == recv + own;
    case Kind::reduce_scatter:
    case Kind::scatter:
      return recv == send + own;
    default:
      return send == recv;
  }
}

bool peers_serve(const Operation& op) {
  return !op.transfer() && op.reduction.op != ReduceOp::premul_sum;
}

Result<cuda::PeerWorld::Call> peer_call(Comm& comm, const Operation& op) {
  cuda::PeerWorld::Call call;
  call.count = op.count;
  call.dtype = op.dtype();
  call.op = op.reduces() ? op.reduction.op : ReduceOp::sum;
  const Comm::Bytes bytes = comm.bytes_of(op);
  call.input = bytes.send > 0 ? op.send : nullptr;
  call.output = bytes.recv > 0 ? op.recv : nullptr;

  const Collective collective = collective_of(op.kind);
  const bool small = is_small_on_devices(collective, op.count * size_of(op.dtype()));
  const Rank root = op.rooted() ? static_cast<Rank>(op.root) : 0;
  const bool here = bytes.send > 0 && bytes.recv > 0 && in_place(comm, op);
  PlanPtr& plan = comm.device_state().plans[{collective, root, small, here}];
  if (plan == nullptr) {
    Result<PlanPtr> made = device_plan({collective, comm.ranks(), root, small, here});
    if (!made) return made.status();
    plan = *made;
  }
  call.plan = plan;
  call.signature = mix(mix(mix(1, op.count), root), static_cast<uint64_t>(collective) << 16 |
                                                        static_cast<uint64_t>(call.dtype) << 8 |
                                                        static_cast<uint64_t>(call.op));
  return call;
}

// Launches what plans serve and takes it out of the tasks.
Status launch_on_peers(std::vector<DeviceTask>& tasks) {
  struct Prepared {
    cuda::PeerWorld* peers;
    cuda::PeerWorld::Call call;
    cuda::Stream stream;
    Rank rank;
  };
  std::vector<Prepared> prepared;
  for (DeviceTask& task : tasks) {
    cuda::PeerWorld* peers = task.comm->device_state().peers.get();
    if (peers == nullptr) continue;
    for (const Operation& op : task.operations) {
      if (!peers_serve(op)) continue;
      Result<cuda::PeerWorld::Call> call = peer_call(*task.comm, op);
      Status status = call ? peers->prepare(call->plan) : call.status();
      if (!status.ok()) return status.with_context(fmt::format("rank {}", task.comm->rank()));
      prepared.push_back({peers, *call, stream_of(op), task.comm->rank()});
    }
    std::erase_if(task.operations, peers_serve);
  }
  for (const Prepared& p : prepared)
    TUTTI_RETURN_IF_ERROR(
        p.peers->launch(p.call, p.stream).with_context(fmt::format("rank {}", p.rank)));
  return {};
}

// --- staging

struct Staged {
  std::shared_ptr<Comm> comm;
  cuda::Staging::Ticket* ticket = nullptr;
  cuda::Stream stream = nullptr;
  std::vector<cuda::Stream> others;
};

cuda::DevicePtr address(const void* p) { return reinterpret_cast<cuda::DevicePtr>(p); }

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

// In a thread of the driver: hands the call to the communicator's lane.
void run_staged(const std::weak_ptr<Comm>& weak, cuda::Staging::Ticket* ticket,
                std::vector<Operation> operations) {
  std::shared_ptr<Comm> comm = weak.lock();
  if (comm == nullptr) return ticket->answer();
  Comm& c = *comm;
  c.post([&c, operations = std::move(operations)]() mutable { return c.execute(operations); },
         [comm, ticket](const Status& status) {
           if (!status.ok()) comm->add_async_error(status);
           ticket->answer();
         });
}

Result<Staged> post(cuda::Runtime& runtime, DeviceTask& task) {
  DeviceState& state = task.comm->device_state();
  Result<cuda::Device*> device = runtime.device(task.comm->device());
  if (!device) return device.status();
  Staged staged;
  staged.comm = task.comm;
  staged.stream = stream_of(task.operations[0]);
  std::vector<cuda::Staging::Buffer> buffers;
  for (const Operation& op : task.operations) {
    if (const cuda::Stream s = stream_of(op);
        s != staged.stream &&
        std::find(staged.others.begin(), staged.others.end(), s) == staged.others.end())
      staged.others.push_back(s);
    const Comm::Bytes bytes = task.comm->bytes_of(op);
    buffers.push_back({address(op.send), bytes.send, true, false});
    buffers.push_back({address(op.recv), bytes.recv, false, true});
    const bool scalar_there = op.late_scalar != nullptr && runtime.locate(op.late_scalar).device;
    buffers.push_back(
        {address(op.late_scalar), scalar_there ? size_of(op.dtype()) : 0, true, false});
  }
  Result<cuda::Staging::Ticket*> ticket = state.staging->prepare(staged.stream, std::move(buffers));
  if (!ticket) return ticket.status();
  staged.ticket = *ticket;
  for (cuda::Stream other : staged.others)
    TUTTI_RETURN_IF_ERROR(join_streams(runtime, **device, other, staged.stream));
  std::vector<Operation> on_host = task.operations;
  for (size_t i = 0; i < on_host.size(); ++i) {
    Operation& op = on_host[i];
    op.on_device = false;
    op.send = staged.ticket->host(3 * i);
    op.recv = staged.ticket->host(3 * i + 1);
    if (staged.ticket->host(3 * i + 2) != nullptr) op.late_scalar = staged.ticket->host(3 * i + 2);
  }
  TUTTI_RETURN_IF_ERROR(
      state.staging->post(*staged.ticket, staged.stream,
                          [weak = std::weak_ptr<Comm>(task.comm), ticket = staged.ticket,
                           on_host = std::move(on_host)] { run_staged(weak, ticket, on_host); }));
  return staged;
}

Status finish(cuda::Runtime& runtime, const Staged& staged) {
  DeviceState& state = staged.comm->device_state();
  TUTTI_RETURN_IF_ERROR(state.staging->finish(*staged.ticket, staged.stream));
  Result<cuda::Device*> device = runtime.device(staged.comm->device());
  if (!device) return device.status();
  for (cuda::Stream other : staged.others)
    TUTTI_RETURN_IF_ERROR(join_streams(runtime, **device, staged.stream, other));
  return {};
}

// All are told to the host before any stream waits: streams may share a queue of the device.
Status stage(cuda::Runtime& runtime, std::vector<DeviceTask>& tasks) {
  std::vector<Staged> posted;
  for (DeviceTask& task : tasks) {
    if (task.operations.empty()) continue;
    Result<Staged> staged = post(runtime, task);
    if (!staged) return staged.status().with_context(fmt::format("rank {}", task.comm->rank()));
    posted.push_back(std::move(*staged));
  }
  for (const Staged& staged : posted) TUTTI_RETURN_IF_ERROR(finish(runtime, staged));
  return {};
}

Status open_state(const std::shared_ptr<cuda::Runtime>& runtime, Comm& comm) {
  DeviceState& state = comm.device_state();
  if (state.staging != nullptr) return {};
  Result<Config> config = Config::from_environment();
  if (!config) return config.status();
  Result<cuda::Device*> device = runtime->device(comm.device());
  if (!device) return device.status();
  state.runtime = runtime;
  state.staging = std::make_unique<cuda::Staging>(*runtime, **device);
  state.limits = {config->gpu_blocks, config->gpu_copy_engine_bytes};
  state.shares_device = config->multi_rank_gpu;
  state.host_id = config->host_id;
  return {};
}

}  // namespace

Result<std::shared_ptr<cuda::Runtime>> device_runtime() {
  static std::mutex mutex;
  static auto* runtime =
      new std::shared_ptr<cuda::Runtime>;  // threads may outlive static destructors
  std::lock_guard lock(mutex);
  if (*runtime != nullptr) return *runtime;
  Result<std::shared_ptr<const cuda::Driver>> driver = cuda::load_driver();
  if (!driver) return driver.status();
  Result<std::shared_ptr<cuda::Runtime>> opened = cuda::Runtime::open(*driver);
  if (opened) *runtime = *opened;
  return opened;
}

Status enqueue_on_devices(std::vector<DeviceTask> tasks) {
  Result<std::shared_ptr<cuda::Runtime>> runtime = device_runtime();
  if (!runtime) return runtime.status();
  for (DeviceTask& task : tasks) {
    TUTTI_RETURN_IF_ERROR(open_state(*runtime, *task.comm));
    for (const Operation& op : task.operations)
      TUTTI_RETURN_IF_ERROR(check_operation(**runtime, *task.comm, op)
                                .with_context(fmt::format("rank {}", task.comm->rank())));
  }
  for (const World& world : complete_worlds(tasks))
    TUTTI_RETURN_IF_ERROR(launch_world(**runtime, world));
  TUTTI_RETURN_IF_ERROR(meet_all(*runtime, tasks));
  TUTTI_RETURN_IF_ERROR(launch_on_peers(tasks));
  return stage(**runtime, tasks);
}

}  // namespace tutti::nccl
