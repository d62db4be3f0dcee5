#include "src/nccl/comm.h"

#include <fmt/format.h>
#include <pthread.h>

#include <cstring>
#include <thread>

#include "src/nccl/device_calls.h"
#include "src/nccl/errors.h"
#include "src/nccl/log.h"
#include "src/nccl/pointers.h"
#include "src/nccl/windows.h"

namespace tutti::nccl {
namespace {

std::atomic<uint32_t> g_fork_epoch{0};

}  // namespace

// --- Lane

Lane::~Lane() {
  std::lock_guard lock(state_->mutex);
  state_->closed = true;
  state_->changed.notify_all();
}

void Lane::post(std::function<void()> job) {
  std::lock_guard lock(state_->mutex);
  state_->unfinished.fetch_add(1, std::memory_order_acq_rel);
  state_->jobs.push_back(std::move(job));
  if (!state_->running) {
    state_->running = true;
    std::thread([state = state_] { run(state); }).detach();
  }
  state_->changed.notify_all();
}

void Lane::run(const std::shared_ptr<State>& state) {
  state->thread.store(std::this_thread::get_id(), std::memory_order_relaxed);
  std::unique_lock lock(state->mutex);
  while (true) {
    state->changed.wait(lock, [&] { return state->closed || !state->jobs.empty(); });
    if (state->jobs.empty()) return;
    std::function<void()> job = std::move(state->jobs.front());
    state->jobs.pop_front();
    lock.unlock();
    job();
    // Before the job's captures go: they may hold the last reference to the Lane's owner.
    state->unfinished.fetch_sub(1, std::memory_order_acq_rel);
    job = nullptr;
    lock.lock();
    state->changed.notify_all();
  }
}

bool Lane::here() const {
  return state_->thread.load(std::memory_order_relaxed) == std::this_thread::get_id();
}

void Lane::drain() const {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return idle(); });
}

// --- table

CommTable& comms() {
  static auto* table = new CommTable;  // threads may outlive static destructors
  return *table;
}

uint32_t fork_epoch() {
  static const bool registered = [] {
    pthread_atfork([] { comms().mutex().lock(); }, [] { comms().mutex().unlock(); },
                   [] {
                     comms().mutex().unlock();
                     g_fork_epoch.fetch_add(1, std::memory_order_relaxed);
                   });
    return true;
  }();
  static_cast<void>(registered);
  return g_fork_epoch.load(std::memory_order_relaxed);
}

Found find(ncclComm_t handle) {
  if (handle == nullptr) return {CommTable::Pin(), invalid_argument("the communicator is null")};
  CommTable::Pin pin = comms().pin(handle);
  if (!pin)
    return {CommTable::Pin(),
            invalid_argument(fmt::format("{} is no communicator of this library, or it was "
                                         "destroyed or aborted",
                                         static_cast<void*>(handle)))};
  if (pin->forked())
    return {CommTable::Pin(),
            invalid_usage(fmt::format("rank {}: the communicator belongs to the parent of this "
                                      "forked process; make one here",
                                      pin->rank()))};
  return {std::move(pin), Status()};
}

// --- start

Comm::Comm(Rank rank, uint32_t ranks, int device, Settings settings)
    : rank_(rank),
      ranks_(ranks),
      ordinal_(device),
      settings_(std::move(settings)),
      fork_epoch_(nccl::fork_epoch()),
      device_(std::make_unique<DeviceHost>(*this, device)) {}

Comm::~Comm() = default;

void Comm::set_world(std::string world) { device_->device_path().set_world(std::move(world)); }

std::shared_ptr<DeviceHost> Comm::device_host() { return {shared_from_this(), device_.get()}; }

void Comm::drain_device() { device_->device_path().drain(); }

void Comm::stop_device() { device_->device_path().stop(); }

void Comm::add_async_error(const Status& error) {
  const Status status = explain(error);
  remember_error(status);
  std::lock_guard lock(mutex_);
  if (async_error_.ok()) async_error_ = status;
}

bool Comm::forked() const { return fork_epoch_ != g_fork_epoch.load(std::memory_order_relaxed); }

// The communicator, and the real one where it cannot be made later.
Result<std::unique_ptr<Communicator>> Comm::make_all(const Make& make) {
  const Kinds& elsewhere = settings_.fallback;
  // Before the others are kept waiting.
  if (!elsewhere.empty())
    if (auto found = RealComm::library(elsewhere); !found) return found.status();
  Result<std::unique_ptr<Communicator>> made = make();
  if (!made || *made == nullptr) return made;
  if (settings_.rma_eager && settings_.rma()) TUTTI_RETURN_IF_ERROR((*made)->open_one_sided());
  if (elsewhere.has(Operation::Kind::send)) TUTTI_RETURN_IF_ERROR(make_real(**made));
  return made;
}

Status Comm::start(const Make& make) {
  Result<std::unique_ptr<Communicator>> made = make_all(make);
  std::unique_lock lock(mutex_);
  if (made && *made != nullptr && !aborted_.load()) {
    communicator_ = std::move(*made);
    rank_.store(communicator_->rank(), std::memory_order_release);
    ranks_.store(communicator_->ranks(), std::memory_order_release);
    communicator_->on_late(
        [](const std::string& text) { log_line(LogLevel::warn, Subsystem::none, text); });
    ready_.store(communicator_.get(), std::memory_order_release);
    phase_.store(Phase::ready, std::memory_order_release);
  } else {
    start_error_ = made ? Status(Code::aborted, "the communicator was aborted while it was made")
                        : made.status();
    phase_.store(Phase::failed, std::memory_order_release);
  }
  started_.notify_all();
  if (phase_.load() == Phase::failed) return start_error_;
  if (logs(LogLevel::info, Subsystem::init))
    log_line(LogLevel::info, Subsystem::init,
             fmt::format("tutti {}: comm {} rank {} nranks {} {} - Init COMPLETE", version(),
                         settings_.name.empty() ? "-" : settings_.name, rank(), ranks(),
                         settings_.blocking ? "blocking" : "nonblocking"));
  return {};
}

Status Comm::wait_started() {
  if (phase_.load(std::memory_order_acquire) == Phase::ready) return {};
  std::unique_lock lock(mutex_);
  started_.wait(lock, [&] { return phase_.load() != Phase::starting; });
  return phase_.load() == Phase::failed ? start_error_ : Status();
}

// --- operations

Status Comm::usable() const {
  const Rank r = rank();
  if (finalized_.load(std::memory_order_relaxed))
    return invalid_usage(fmt::format("rank {}: the communicator was finalized", r));
  if (suspended())
    return invalid_usage(
        fmt::format("rank {}: the communicator is suspended; call "
                    "ncclCommResume first",
                    r));
  if (revoked())
    return invalid_usage(
        fmt::format("rank {}: the communicator was revoked; only destroy, split "
                    "and shrink go on",
                    r));
  return {};
}

Status Comm::resolve(Operation* op) {
  if (!op->reduces()) return {};
  if (op->op < ncclNumOps) {
    op->reduction = Reduction(static_cast<ReduceOp>(op->op));
    return {};
  }
  std::lock_guard lock(premul_mutex_);
  const auto found = premuls_.find(op->op);
  if (found == premuls_.end())
    return invalid_argument(
        fmt::format("rank {}: op {} is neither built in nor made by "
                    "ncclRedOpCreatePreMulSum on this communicator",
                    rank(), op->op));
  const Premul& premul = found->second;
  if (premul.dtype != op->dtype())
    return invalid_argument(fmt::format("rank {}: the operator was made for {}, the data is {}",
                                        rank(), name(premul.dtype), name(op->dtype())));
  op->reduction.op = ReduceOp::premul_sum;
  op->reduction.scalar_bits = premul.bits;
  op->late_scalar = premul.scalar;
  return {};
}

Status Comm::check(Operation* op) {
  TUTTI_RETURN_IF_ERROR(usable());
  const uint32_t n = ranks();
  if (n == 0) return {};  // a split in this group: checked when it runs
  if (op->one_sided()) return check_one_sided(op);
  auto bad = [&](std::string why) {
    return invalid_argument(fmt::format("rank {}: {}", rank(), why));
  };
  if (op->datatype < 0 || op->datatype >= ncclNumTypes)
    return bad(fmt::format("unknown datatype {}", op->datatype));
  if (op->reduces() && op->op < 0) return bad(fmt::format("unknown op {}", op->op));
  if ((op->rooted() || op->transfer()) && (op->root < 0 || static_cast<uint32_t>(op->root) >= n))
    return bad(fmt::format("{} {} of {} ranks", op->transfer() ? "peer" : "root", op->root, n));
  if (op->count > SIZE_MAX / 2 / size_of(op->dtype()) / n)
    return bad(fmt::format("count {} overflows", op->count));
  TUTTI_RETURN_IF_ERROR(resolve(op));
  if (op->count > 0 && !settings_.fallback.has(op->kind))
    if (Status status = check_buffers(op); !status.ok())
      return status.with_context(fmt::format("rank {}", rank()));
  op->checked = true;
  return {};
}

Status Comm::check_signal(Operation::Signal signal, int peer) const {
  const auto bad = [&](std::string why) {
    return invalid_argument(fmt::format("rank {}: {}", rank(), why));
  };
  if (peer < 0 || static_cast<uint32_t>(peer) >= ranks())
    return bad(fmt::format("peer {} of {} ranks", peer, ranks()));
  if (signal.index < 0 || signal.index >= settings_.rma_signals)
    return bad(fmt::format("sigIdx is {} of {} signals (config.numRmaSig)", signal.index,
                           settings_.rma_signals));
  if (signal.context < 0 || signal.context >= settings_.rma_contexts)
    return bad(fmt::format("ctx is {} of {} contexts (config.numRmaCtx)", signal.context,
                           settings_.rma_contexts));
  return {};
}

Status Comm::check_one_sided(Operation* op) {
  const auto bad = [&](std::string why) {
    return invalid_argument(fmt::format("rank {}: {}", rank(), why));
  };
  if (!settings_.rma())
    return invalid_usage(fmt::format(
        "rank {}: the communicator has no one-sided calls: config.numRmaCtx or numRmaSig is 0",
        rank()));
  for (const ncclWaitSignalDesc_t& wait : op->waits) {
    TUTTI_RETURN_IF_ERROR(check_signal({wait.sigIdx, wait.ctx}, wait.peer));
    if (wait.opCnt < 0) return bad(fmt::format("opCnt of peer {} is {}", wait.peer, wait.opCnt));
  }
  if (op->kind != Operation::Kind::wait_signal)
    TUTTI_RETURN_IF_ERROR(check_signal(op->signal, op->root));
  op->checked = true;
  if (op->kind != Operation::Kind::put_signal) return {};

  if (op->datatype < 0 || op->datatype >= ncclNumTypes)
    return bad(fmt::format("unknown datatype {}", op->datatype));
  const size_t element = size_of(op->dtype());
  if (op->count > SIZE_MAX / 2 / element) return bad(fmt::format("count {} overflows", op->count));
  Result<WindowEntry> window = find_window(*this, op->window);
  if (!window) return window.status();
  const size_t bytes = op->count * element,
               room = window->window.bytes(static_cast<Rank>(op->root));
  if (window->on_device || (room == 0 && bytes > 0))
    return invalid_usage(fmt::format(
        "rank {}: rank {} offers nothing in this window: one-sided calls serve no device "
        "memory, and nothing where config.numRmaCtx or numRmaSig is 0",
        rank(), window->on_device ? static_cast<int>(rank()) : op->root));
  if (op->offset > room || bytes > room - op->offset)
    return bad(fmt::format("{} bytes at {} of the window of rank {}, which has {} bytes", bytes,
                           op->offset, op->root, room));
  op->target = window->window;
  if (bytes == 0) return {};
  if (op->send == nullptr) return bad("the buffer is null");
  return check_places(op->send, bytes, nullptr, 0).with_context(fmt::format("rank {}", rank()));
}

BufferBytes Comm::bytes_of(const Operation& op) const {
  return buffer_bytes(device_operation(op), rank(), ranks());
}

Status Comm::check_buffers(Operation* op) const {
  const size_t element = size_of(op->dtype());
  const BufferBytes bytes = bytes_of(*op);
  auto check = [&](const void* buffer, const char* which) -> Status {
    if (buffer == nullptr) return invalid_argument(fmt::format("the {} buffer is null", which));
    if (reinterpret_cast<uintptr_t>(buffer) % element != 0)
      return invalid_argument(
          fmt::format("the {} buffer is not aligned to its elements of {} "
                      "bytes",
                      which, element));
    return {};
  };
  if (bytes.send > 0) TUTTI_RETURN_IF_ERROR(check(op->send, "send"));
  if (bytes.recv > 0) TUTTI_RETURN_IF_ERROR(check(op->recv, "receive"));
  Result<Place> place = common_place(op->send, bytes.send, op->recv, bytes.recv);
  if (place) op->on_device = *place == Place::device;
  return place.status();
}

Status Comm::run(const Operation& op) {
  using Kind = Operation::Kind;
  Communicator& c = *communicator_;
  const DType dtype = op.dtype();
  const auto root = static_cast<Rank>(op.root);
  Reduction reduction = op.reduction;
  if (op.late_scalar != nullptr) {
    TUTTI_RETURN_IF_ERROR(check_places(op.late_scalar, size_of(dtype), nullptr, 0));
    reduction = Reduction::premul_sum(dtype, op.late_scalar);
  }
  switch (op.kind) {
    case Kind::all_reduce:
      return c.all_reduce(op.send, op.recv, op.count, dtype, reduction);
    case Kind::reduce_scatter:
      return c.reduce_scatter(op.send, op.recv, op.count, dtype, reduction);
    case Kind::all_gather:
      return c.all_gather(op.send, op.recv, op.count, dtype);
    case Kind::broadcast:
      return c.broadcast(op.send, op.recv, op.count, dtype, root);
    case Kind::reduce:
      return c.reduce(op.send, op.recv, op.count, dtype, reduction, root);
    case Kind::all_to_all:
      return c.all_to_all(op.send, op.recv, op.count, dtype);
    case Kind::gather:
      return c.gather(op.send, op.recv, op.count, dtype, root);
    case Kind::scatter:
      return c.scatter(op.send, op.recv, op.count, dtype, root);
    case Kind::send:
      return c.send(op.send, op.count, dtype, root);
    case Kind::recv:
      return c.recv(op.recv, op.count, dtype, root);
    case Kind::put_signal:
    case Kind::signal:
    case Kind::wait_signal:
      return run_one_sided(op);
  }
  return Status(Code::internal_error, "an operation of no kind");
}

Status Comm::run_one_sided(const Operation& op) {
  Communicator& c = *communicator_;
  const auto peer = static_cast<Rank>(op.root);
  if (op.kind == Operation::Kind::signal) return c.signal(peer, op.signal.number());
  if (op.kind == Operation::Kind::put_signal)
    return c.put_signal(op.send, op.count * size_of(op.dtype()), peer, op.target, op.offset,
                        op.signal.number());
  std::vector<SignalCount> counts;
  for (const ncclWaitSignalDesc_t& wait : op.waits)
    counts.push_back({static_cast<Rank>(wait.peer), static_cast<uint64_t>(wait.opCnt),
                      Operation::Signal{wait.sigIdx, wait.ctx}.number()});
  return c.wait_signals(counts);
}

Result<Window> Comm::offer_window(void* memory, size_t bytes) {
  TUTTI_RETURN_IF_ERROR(usable());
  const bool offers = settings_.rma();
  Result<Window> made =
      communicator_->register_window(offers ? memory : nullptr, offers ? bytes : 0);
  if (!made) return explain(made.status());
  return made;
}

std::shared_ptr<RealComm> Comm::real() const {
  std::lock_guard lock(mutex_);
  return real_;
}

Status Comm::make_real(Communicator& here) {
  auto made = RealComm::make(here, settings_.fallback, ordinal_);
  if (!made) return made.status();
  std::lock_guard lock(mutex_);
  if (aborted_.load()) (*made)->abort();
  real_ = std::move(*made);
  return {};
}

Status Comm::run_fallbacks(std::span<const Operation> operations) {
  if (real() == nullptr)
    if (Status status = make_real(*communicator_); !status.ok()) return explain(std::move(status));
  return real()->run(operations, settings_.fallback).with_context(fmt::format("rank {}", rank()));
}

Collective collective_of(Operation::Kind kind) {
  using Kind = Operation::Kind;
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

Result<double> Comm::estimate(std::span<const Operation> operations) {
  if (operations.empty()) return 0.0;
  TUTTI_RETURN_IF_ERROR(wait_started());
  double seconds = 0;
  size_t sent = 0, received = 0;  // bytes of transfers
  for (const Operation& op : operations) {
    const size_t bytes = op.count * size_of(op.dtype());
    if (op.transfer() || op.one_sided()) {
      (op.kind == Operation::Kind::recv ? received : sent) += bytes;
      continue;
    }
    const Result<double> one = communicator_->estimate(
        collective_of(op.kind), op.count, op.dtype(), op.rooted() ? static_cast<Rank>(op.root) : 0);
    if (!one) return one;
    seconds += *one;
  }
  if (sent + received == 0) return seconds;
  const Result<double> transfers =
      communicator_->estimate(Collective::send_recv, std::max(sent, received), DType::uint8);
  if (!transfers) return transfers;
  return seconds + *transfers;
}

// Peers that group the same calls in another order still meet: collectives keep their order among
// themselves, transfers come after all of them, and one-sided calls, in their order, last, as in
// NCCL.
Status Comm::execute(std::span<Operation> operations) {
  TUTTI_RETURN_IF_ERROR(usable());
  const Kinds& elsewhere = settings_.fallback;
  size_t transfers = 0, fallbacks = 0, one_sided = 0;
  std::vector<Operation> on_device;  // found out only now: the communicator was being made
  for (Operation& op : operations) {
    if (!op.checked) TUTTI_RETURN_IF_ERROR(check(&op));
    // Called before there was anything to count in: later calls may have been counted already.
    if (op.transfer() && !op.counted) leave_messages_out();
    if (op.on_device) on_device.push_back(op);
    if (op.on_device) continue;
    fallbacks += elsewhere.has(op.kind);
    if (elsewhere.has(op.kind)) continue;
    transfers += op.transfer();
    one_sided += op.one_sided();
    if (!op.transfer() && !op.one_sided())
      if (Status status = run(op); !status.ok()) return explain(std::move(status));
  }
  if (!on_device.empty())
    TUTTI_RETURN_IF_ERROR(enqueue_on_devices({{shared_from_this(), std::move(on_device)}}));
  if (fallbacks > 0) TUTTI_RETURN_IF_ERROR(run_fallbacks(operations));
  if (transfers > 0) TUTTI_RETURN_IF_ERROR(run_transfers(operations, transfers));
  for (const Operation& op : operations)
    if (one_sided > 0 && op.one_sided())
      if (Status status = run(op); !status.ok()) return explain(std::move(status));
  return {};
}

void Comm::count_messages(std::span<Operation> operations) {
  Communicator* const made = communicator();
  if (made == nullptr) {
    for (const Operation& op : operations)
      if (op.transfer()) early_messages_.store(true);
    return;
  }
  if (early_messages_.load()) return leave_messages_out();
  std::vector<Transfer> on_host;
  std::vector<DeviceOperation> on_device;
  for (Operation& op : operations) {
    if (!op.transfer() || !op.checked) continue;
    op.counted = true;
    if (op.on_device) {
      on_device.push_back(device_operation(op));
    } else if (!settings_.fallback.has(op.kind)) {
      on_host.push_back(
          {op.kind == Operation::Kind::send ? Transfer::Direction::send : Transfer::Direction::recv,
           static_cast<Rank>(op.root), nullptr, op.count * size_of(op.dtype()), op.dtype()});
    }
  }
  if (!on_host.empty() || !on_device.empty()) made->impl().count_messages(on_host, on_device);
}

void Comm::leave_messages_out() {
  if (Communicator* made = communicator()) made->impl().messages().leave_out_all();
}

Status Comm::run_transfers(std::span<const Operation> operations, size_t transfers) {
  const Communicator::Impl::Counted counted(communicator_->impl());
  if (transfers > 1) static_cast<void>(communicator_->group_start());
  Status status;
  for (const Operation& op : operations)
    if (op.transfer() && !op.on_device && !settings_.fallback.has(op.kind) && status.ok())
      status = run(op);
  if (transfers > 1)
    if (Status end = communicator_->group_end(); status.ok()) status = std::move(end);
  return explain(std::move(status));
}

Status Comm::perform(Operation* op) {
  if (op->transfer()) count_messages({op, 1});
  if (op->on_device) {
    Status status = enqueue_on_devices({{shared_from_this(), {*op}}});
    if (!status.ok() && status.code() != Code::in_progress) leave_messages_out();
    return status;
  }
  if (blocking() && communicator() != nullptr && lane_.idle()) return execute({op, 1});
  auto self = shared_from_this();
  return perform([self, op = *op]() mutable { return self->execute({&op, 1}); });
}

Status Comm::perform(std::function<Status()> body) {
  if (lane_.here()) return body();  // a group's: it would wait for itself
  if (blocking() && communicator() != nullptr && lane_.idle()) return body();
  if (!blocking()) {
    post(std::move(body), [](const Status&) {});
    return in_progress();
  }
  std::mutex mutex;
  std::condition_variable finished;
  std::optional<Status> outcome;
  post(std::move(body), [&](const Status& status) {
    std::lock_guard lock(mutex);
    outcome = status;
    finished.notify_one();
  });
  std::unique_lock lock(mutex);
  finished.wait(lock, [&] { return outcome.has_value(); });
  return *outcome;
}

void Comm::post(std::function<Status()> body, std::function<void(const Status&)> done) {
  lane_.post([self = shared_from_this(), body = std::move(body), done = std::move(done)] {
    Status status = self->wait_started();
    try {
      if (status.ok()) status = body();
    } catch (const std::exception& e) {
      status = Status(Code::system_error, e.what());
    }
    if (!status.ok() && !self->blocking()) {
      self->remember_error(status);
      std::lock_guard lock(self->mutex_);
      if (self->async_error_.ok()) self->async_error_ = status;
    }
    done(status);
  });
}

// A peer's abort is a remote error here.
Status Comm::explain(Status status) const {
  const bool own = aborted_.load() || revoked_.load();
  if (status.code() == Code::aborted && !own) return Status(Code::remote_error, status.message());
  return status;
}

// --- life

Status Comm::finalize() {
  if (revoked())
    return invalid_usage(
        fmt::format("rank {}: a revoked communicator is destroyed, not finalized", rank()));
  if (finalized_.exchange(true))
    return invalid_usage(fmt::format("rank {}: the communicator was finalized already", rank()));
  auto self = shared_from_this();
  return perform([self] { return self->explain(self->communicator_->finalize()); });
}

void Comm::abort() {
  Communicator* running = nullptr;
  {
    std::lock_guard lock(mutex_);
    aborted_.store(true);
    running = communicator_.get();
  }
  if (running == nullptr) return;  // start() will see it
  stop_device();
  running->abort(fmt::format("ncclCommAbort on rank {}", rank()));
  if (const auto elsewhere = real()) elsewhere->abort();
  lane_.drain();
}

Status Comm::suspend() {
  TUTTI_RETURN_IF_ERROR(usable());
  if (!lane_.idle())
    return invalid_usage(fmt::format("rank {}: operations are in progress", rank()));
  suspended_.store(true, std::memory_order_release);
  return {};
}

Status Comm::resume() {
  if (!suspended_.exchange(false, std::memory_order_acq_rel))
    return invalid_usage(fmt::format("rank {}: the communicator is not suspended", rank()));
  return {};
}

Status Comm::state() const {
  if (phase_.load(std::memory_order_acquire) == Phase::starting) return in_progress();
  if (!blocking() && !lane_.idle()) return in_progress();
  std::lock_guard lock(mutex_);
  if (phase_.load() == Phase::failed) return start_error_;
  if (revoked()) return {};
  if (!async_error_.ok()) return async_error_;
  if (Status status = device_->device_path().error(); !status.ok()) return status;
  if (Status own = communicator_->error(); !own.ok() || real_ == nullptr) return explain(own);
  return real_->state();
}

void Comm::remember_error(const Status& status) {
  {
    std::lock_guard lock(mutex_);
    last_error_ = status.message();
  }
  note_error(status);
}

std::string Comm::last_error() const {
  const Status now = state();
  if (!now.ok() && now.code() != Code::in_progress) return now.message();
  std::lock_guard lock(mutex_);
  return last_error_;
}

// --- operators

ncclRedOp_t Comm::add_premul(DType dtype, const void* scalar, bool immediate) {
  std::lock_guard lock(premul_mutex_);
  Premul premul{dtype, 0, immediate ? nullptr : scalar};
  if (immediate) premul.bits = Reduction::premul_sum(dtype, scalar).scalar_bits;
  premuls_.emplace(next_premul_, premul);
  return static_cast<ncclRedOp_t>(next_premul_++);
}

bool Comm::remove_premul(ncclRedOp_t op) {
  std::lock_guard lock(premul_mutex_);
  return premuls_.erase(static_cast<int>(op)) > 0;
}

}  // namespace tutti::nccl
