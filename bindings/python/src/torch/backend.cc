#include "bindings/python/src/torch/backend.h"

#include <set>
#include <thread>

#include "bindings/python/src/torch/signals.h"

namespace tutti::torch_backend {
namespace {

using c10d::OpType;
using std::chrono::milliseconds;
using Tensors = TuttiBackend::Tensors;

// Backends that live in this process, for the end of the interpreter.
struct Registry {
  std::mutex mutex;
  std::set<TuttiBackend*> all;
};
Registry& registry() {
  static Registry* the_one = new Registry;  // outlives static destructors
  return *the_one;
}

Config config_with(milliseconds timeout) {
  Result<Config> config = Config::from_environment();
  TORCH_CHECK_VALUE(config.ok(), "tutti: ", config.status().to_string());
  const double seconds = std::chrono::duration<double>(timeout).count();
  config->init_timeout = seconds;
  config->timeout = seconds;
  return *config;
}

// The value of `key`, looked for without holding the store's connection.
Result<std::vector<uint8_t>> wait_for_key(c10d::Store& store, const std::string& key,
                                          milliseconds timeout, const std::string& who,
                                          const std::function<bool()>& stopped = {}) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  milliseconds pause{1};
  while (!store.check({key})) {
    if (stopped && stopped()) return Status(Code::aborted, "the process group was shut down");
    if (std::chrono::steady_clock::now() > deadline)
      return Status(Code::timeout,
                    who + " did not come within " + std::to_string(timeout.count()) + " ms");
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, milliseconds(20));
  }
  return store.get(key);
}

// `root`: rank 0, in messages. Ends early once `stopped` says so; two ranks then tell each other
// that they are there, since joining cannot be stopped.
Result<std::unique_ptr<Communicator>> meet(c10d::Store& store, const std::string& key, Rank rank,
                                           uint32_t ranks, milliseconds timeout,
                                           const std::string& root,
                                           const std::function<bool()>& stopped = {}) {
  UniqueId id;
  try {
    const std::string here = key + "/here";
    if (rank == 0) {
      Result<UniqueId> made = UniqueId::create();
      if (!made) return made.status();
      id = *made;
      const auto* bytes = reinterpret_cast<const uint8_t*>(id.bytes.data());
      if (ranks > 1) store.set(key, std::vector<uint8_t>(bytes, bytes + id.bytes.size()));
      if (stopped)
        TUTTI_RETURN_IF_ERROR(wait_for_key(store, here, timeout, root, stopped).status());
    } else {
      if (stopped) store.set(here, std::vector<uint8_t>{1});
      Result<std::vector<uint8_t>> value = wait_for_key(store, key, timeout, root, stopped);
      if (!value) return value.status();
      if ((*value).size() != id.bytes.size())
        return Status(Code::remote_error, "the store holds no unique id under " + key);
      std::memcpy(id.bytes.data(), (*value).data(), id.bytes.size());
    }
  } catch (const std::exception& error) {
    return Status(Code::remote_error, std::string("the store failed: ") + error.what());
  }
  Result<std::unique_ptr<Communicator>> made =
      Communicator::create(id, rank, ranks, config_with(timeout));
  if (made) (*made)->on_wait(handle_signals);
  return made;
}

[[noreturn]] void fail(const Status& status) { std::rethrow_exception(to_exception(status)); }

Tensors both(const Tensors& a, const Tensors& b) {
  Tensors all = a;
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

bool same_sizes(const Tensors& tensors) {
  for (const at::Tensor& t : tensors)
    if (t.numel() != tensors[0].numel()) return false;
  return true;
}

// Runs `body` on contiguous memory in the place of `tensor`.
template <class Body>
Status in_place(at::Tensor& tensor, bool copy_back, Body&& body) {
  at::Tensor dense = contiguous(tensor);
  TUTTI_RETURN_IF_ERROR(body(dense));
  if (copy_back && !dense.is_same(tensor)) tensor.copy_(dense);
  return {};
}

Status all_gather_into(Calls& c, at::Tensor output, const at::Tensor& input) {
  const at::Tensor in = contiguous(input);
  const Wire wire = wire_of(in);
  return in_place(output, true, [&](at::Tensor& out) {
    return c.all_gather(in.const_data_ptr(), out.mutable_data_ptr(), wire.count(in.numel()),
                        wire.dtype);
  });
}

Status reduce_scatter_into(Calls& c, at::Tensor output, const at::Tensor& input,
                           const c10d::ReduceOp& op) {
  return in_place(output, true, [&](at::Tensor& out) {
    return tutti::torch_backend::reduce_scatter(c, contiguous(input).view({-1}), out, op);
  });
}

Status broadcast_from(Calls& c, at::Tensor tensor, Rank root) {
  return in_place(tensor, c.rank() != root, [&](at::Tensor& t) {
    const Wire wire = wire_of(t);
    return c.broadcast(t.const_data_ptr(), t.mutable_data_ptr(), wire.count(t.numel()), wire.dtype,
                       root);
  });
}

// Sizes of the blocks along the first dimension, in items; even ones where `splits` is empty.
std::vector<size_t> block_items(const char* which, const at::Tensor& tensor,
                                const std::vector<int64_t>& splits, size_t ranks) {
  const int64_t rows = tensor.dim() == 0 ? 1 : tensor.size(0);
  const int64_t row = rows == 0 ? 0 : tensor.numel() / rows;
  if (splits.empty()) {
    TORCH_CHECK_VALUE(rows % static_cast<int64_t>(ranks) == 0, "tutti: alltoall_base: ", which,
                      " has ", rows, " rows, which ", ranks, " ranks cannot share evenly");
    return std::vector<size_t>(ranks, static_cast<size_t>(tensor.numel()) / ranks);
  }
  TORCH_CHECK_VALUE(splits.size() == ranks, "tutti: alltoall_base: ", splits.size(),
                    " split sizes of ", which, " for ", ranks, " ranks");
  int64_t total = 0;
  std::vector<size_t> items;
  for (int64_t s : splits) {
    TORCH_CHECK_VALUE(s >= 0, "tutti: alltoall_base: negative split size of ", which);
    total += s;
    items.push_back(static_cast<size_t>(s * row));
  }
  TORCH_CHECK_VALUE(total == rows, "tutti: alltoall_base: split sizes of ", which, " sum to ",
                    total, ", but it has ", rows, " rows");
  return items;
}

std::vector<size_t> sizes_of(const Tensors& tensors) {
  std::vector<size_t> items;
  for (const at::Tensor& t : tensors) items.push_back(static_cast<size_t>(t.numel()));
  return items;
}

Status exchange(Calls& c, const at::Tensor& in, std::vector<size_t> send, at::Tensor out,
                std::vector<size_t> recv) {
  const Wire wire = wire_of(in);
  std::vector<size_t> send_offsets, recv_offsets;
  size_t sent = 0, received = 0;
  for (size_t p = 0; p < send.size(); ++p) {
    send_offsets.push_back(sent);
    recv_offsets.push_back(received);
    sent += send[p] *= wire.per_item;
    received += recv[p] *= wire.per_item;
  }
  return c.all_to_all_v(in.const_data_ptr(), send, send_offsets, out.mutable_data_ptr(), recv,
                        recv_offsets, wire.dtype);
}

}  // namespace

// --- life

c10::intrusive_ptr<c10d::Backend> TuttiBackend::create(const c10::intrusive_ptr<c10d::Store>& store,
                                                       int rank, int size, milliseconds timeout,
                                                       const std::string& served) {
  WithoutGil without_gil;
  const c10::DeviceType type = c10::Device(served).type();
  Result<std::unique_ptr<Communicator>> made = meet(*store, "tutti/id", static_cast<Rank>(rank),
                                                    static_cast<uint32_t>(size), timeout, "rank 0");
  if (!made) fail(made.status());
  return c10::make_intrusive<TuttiBackend>(store, rank, size, timeout, type, std::move(*made));
}

TuttiBackend::TuttiBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                           milliseconds timeout, c10::DeviceType served,
                           std::shared_ptr<Communicator> communicator)
    : Backend(rank, size),
      store_(std::move(store)),
      options_(c10::make_intrusive<Options>("tutti", timeout)),
      served_(served),
      communicator_(std::move(communicator)) {
  std::lock_guard lock(registry().mutex);
  registry().all.insert(this);
}

TuttiBackend::~TuttiBackend() {
  {
    std::lock_guard lock(registry().mutex);
    registry().all.erase(this);
  }
  shutdown();
}

void TuttiBackend::shutdown() {
  if (shut_down_.exchange(true)) return;
  WithoutGil without_gil;
  // Whoever leaves with work outstanding does not wait for it.
  if (pending_ != 0) communicator_->abort("the process group was shut down");
  {
    std::lock_guard lock(channels_mutex_);
    channels_.clear();
  }
  // What is on the streams goes on, also where the program does not wait for it.
  const milliseconds patience = aborted_ ? milliseconds(1000) : options_->timeout;
  for (auto& [device, one] : lanes_) one->shut_down(patience);
  for (auto& [key, one] : device_channels_) one->shut_down(patience);
  static_cast<void>(communicator_->finalize());
}

void TuttiBackend::shutdown_all() {
  std::set<TuttiBackend*> all;
  {
    std::lock_guard lock(registry().mutex);
    all = registry().all;
  }
  for (TuttiBackend* b : all) b->shutdown();
}

void TuttiBackend::abort_all(const std::string& reason) {
  aborted_ = true;
  communicator_->abort(reason);
  {
    std::lock_guard lock(channels_mutex_);
    for (auto& [key, one] : channels_) one->abort(reason);
    for (auto& [key, one] : device_channels_) one->abort(reason);
  }
  std::lock_guard lock(lanes_mutex_);
  for (auto& [device, one] : lanes_) one->abort(reason);
  if (being_opened_ != nullptr) being_opened_->abort(reason);
}

Status TuttiBackend::first_error() {
  Status first = communicator_->error();
  {
    std::lock_guard lock(lanes_mutex_);
    for (auto& [device, one] : lanes_)
      if (first.ok()) first = one->error();
  }
  std::lock_guard lock(channels_mutex_);
  for (auto& [key, one] : device_channels_)
    if (first.ok()) first = one->error();
  return first;
}

c10d::ErrorType TuttiBackend::getError() {
  switch (first_error().code()) {
    case Code::ok:
      return c10d::ErrorType::SUCCESS;
    case Code::timeout:
      return c10d::ErrorType::TIMEOUT;
    case Code::remote_error:
      return c10d::ErrorType::REMOTE_ERROR;
    default:
      return c10d::ErrorType::COMM_ERROR;
  }
}

c10::intrusive_ptr<c10d::Backend> TuttiBackend::split(const c10::intrusive_ptr<c10d::Store>& store,
                                                      const std::vector<int>& ranks,
                                                      const c10::intrusive_ptr<Options>& opts) {
  const auto me = std::find(ranks.begin(), ranks.end(), rank_);
  if (me == ranks.end()) return nullptr;
  const milliseconds timeout = opts ? opts->timeout : options_->timeout;
  return create(store, static_cast<int>(me - ranks.begin()), static_cast<int>(ranks.size()),
                timeout, c10::DeviceTypeName(served_, /*lower_case=*/true));
}

// --- running

c10::intrusive_ptr<TuttiWork> TuttiBackend::make_work(
    Call& call, std::optional<TuttiWork::OnDevice> on_device) {
  TORCH_CHECK(!shut_down_, "tutti: the process group was shut down");
  const bool bounded = call.timeout != c10d::kUnsetTimeout && call.timeout != options_->timeout;
  auto work = c10::make_intrusive<TuttiWork>(
      rank_, call.type, call.title, std::move(call.outputs), ++sequence_,
      bounded ? call.timeout : kNoTimeout, [this](const std::string& reason) { abort_all(reason); },
      std::move(on_device));
  if (coalescing_) coalesced_.push_back(work);
  return work;
}

TuttiBackend::WorkPtr TuttiBackend::launch(Call call, Body body) {
  const Tensors& known = call.outputs.empty() ? call.inputs : call.outputs;
  if (known.empty() || known[0].device().is_cpu())
    return launch_here(std::move(call), std::move(body));
  const c10::Device device = known[0].device();
  return launch_on_device(device, std::move(call), std::move(body));
}

TuttiBackend::WorkPtr TuttiBackend::launch_here(Call call, Body body) {
  const bool async = call.async || coalescing_;
  c10::intrusive_ptr<TuttiWork> work = make_work(call);
  SignalScope signals;
  {
    WithoutGil without_gil;
    std::unique_lock lock(issuing_);
    if (!async && pending_ == 0) {
      // The caller would only wait: it does the work itself. Whoever issues meanwhile waits, since
      // a communicator has one caller at a time.
      const Status status = run(body, Calls(*communicator_));
      lock.unlock();
      work->complete(status);
    } else {
      ++pending_;
      communicator_->submit([this, work, body = std::move(body)](Communicator& c) {
        const Status status = run(body, Calls(c));
        --pending_;
        work->complete(status);
        return status;
      });
    }
  }
  signals.rethrow();
  return work;
}

TuttiBackend::WorkPtr TuttiBackend::launch_on_device(c10::Device device, Call call, Body body) {
  WithoutGil without_gil;
  Lane& there = lane(device);
  const c10::Stream from = current_stream(device);
  const bool host_waits = call.host_waits;
  Tensors used = both(call.outputs, call.inputs);
  const auto work = make_work(call, TuttiWork::OnDevice{from, std::move(used), host_waits});
  const c10::Event ready = mark(from);
  there.enqueue({&ready, 1}, body, {&work, 1});
  return work;
}

void TuttiBackend::startCoalescing() {
  coalescing_ = true;
  coalesced_.clear();
  messages_.clear();
}

TuttiBackend::WorkPtr TuttiBackend::endCoalescing() {
  coalescing_ = false;
  std::vector<c10::intrusive_ptr<TuttiWork>> works = std::exchange(coalesced_, {});
  launch_messages();
  return all_of(rank_, sequence_, std::move(works));
}

// --- devices

Lane& TuttiBackend::lane(c10::Device device) {
  TORCH_CHECK(!shut_down_, "tutti: the process group was shut down");
  const auto known = [&]() -> Lane* {
    std::lock_guard lock(lanes_mutex_);
    const auto found = lanes_.find(device.index());
    return found == lanes_.end() ? nullptr : found->second.get();
  };
  if (Lane* one = known()) return *one;
  std::lock_guard opening(opening_);
  if (Lane* one = known()) return *one;
  Status status;
  run_with_signals([&] { status = open_lane(device); },
                   [this] { abort_all("interrupted by a signal of the program"); });
  if (!status.ok()) fail(status);
  return *known();
}

// Collective: every rank's first call on a device (or its second, ...) comes here.
Status TuttiBackend::open_lane(c10::Device device) {
  std::unique_ptr<Communicator> communicator;
  TUTTI_RETURN_IF_ERROR(join_device(&communicator));
  auto made = std::make_unique<Lane>(device, std::move(communicator));
  const auto show = [&](Lane* lane) {
    std::lock_guard lock(lanes_mutex_);
    being_opened_ = lane;
  };
  show(made.get());
  const Status status = made->open();
  show(nullptr);
  if (!status.ok()) return status;
  std::lock_guard lock(lanes_mutex_);
  lanes_[device.index()] = std::move(made);
  return {};
}

// A communicator for the calls on one device, from that for CPU tensors and in the order of its
// operations.
Status TuttiBackend::join_device(std::unique_ptr<Communicator>* made) {
  tutti::Work splitting;
  {
    std::lock_guard lock(issuing_);
    ++pending_;
    splitting = communicator_->submit([this, made](Communicator& c) {
      Result<std::unique_ptr<Communicator>> split = c.split(0, static_cast<int>(c.rank()));
      if (split) *made = std::move(*split);
      --pending_;
      return split.status();
    });
  }
  return splitting.wait();
}

void TuttiBackend::eagerConnectSingleDevice(at::Device device) {
  if (device.type() != served_) return;
  WithoutGil without_gil;
  lane(device);
}

// --- arguments

void TuttiBackend::check(const char* operation, const Tensors& tensors) const {
  check_tensors(operation, tensors, served_);
}

void TuttiBackend::check_one(const char* operation, const Tensors& tensors) const {
  TORCH_CHECK_VALUE(tensors.size() == 1, "tutti: ", operation, ": ", tensors.size(),
                    " tensors; one is expected");
  check(operation, tensors);
}

void TuttiBackend::check_base(const char* operation, const at::Tensor& whole,
                              const at::Tensor& part) const {
  check(operation, {whole, part});
  TORCH_CHECK_VALUE(whole.numel() == part.numel() * size_, "tutti: ", operation, ": ",
                    whole.numel(), " items for ", size_, " ranks with ", part.numel(), " each");
}

void TuttiBackend::check_pairs(const char* operation, const Tensors& wholes,
                               const Tensors& parts) const {
  TORCH_CHECK_VALUE(!parts.empty() && wholes.size() == parts.size(), "tutti: ", operation, ": ",
                    wholes.size(), " whole tensors for ", parts.size(), " parts");
  for (size_t i = 0; i < parts.size(); ++i) {
    check_base(operation, wholes[i], parts[i]);
    TORCH_CHECK_VALUE(parts[i].device() == parts[0].device(), "tutti: ", operation, ": tensor ", i,
                      " is on ", parts[i].device(), ", but tensor 0 is on ", parts[0].device(),
                      ": one call takes tensors of one device");
  }
}

void TuttiBackend::check_root(const char* operation, int64_t root) const {
  TORCH_CHECK_VALUE(root >= 0 && root < size_, "tutti: ", operation, ": root ", root, " of ", size_,
                    " ranks");
}

void TuttiBackend::check_peer(const char* operation, int peer) const {
  TORCH_CHECK_VALUE(peer >= 0 && peer < size_ && peer != rank_, "tutti: ", operation, ": rank ",
                    rank_, " names peer ", peer, " of ", size_, " ranks");
}

// --- collectives

TuttiBackend::WorkPtr TuttiBackend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& o) {
  check_one("broadcast", tensors);
  check_root("broadcast", o.rootRank);
  return launch({OpType::BROADCAST, "tutti:broadcast", tensors, {}, o.timeout, o.asyncOp},
                [t = tensors[0], root = static_cast<Rank>(o.rootRank)](Calls& c) {
                  return broadcast_from(c, t, root);
                });
}

TuttiBackend::WorkPtr TuttiBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& o) {
  check_one("allreduce", tensors);
  check_reduction("allreduce", tensors[0], o.reduceOp);
  return launch({OpType::ALLREDUCE, "tutti:all_reduce", tensors, {}, o.timeout, o.asyncOp},
                [t = tensors[0], op = o.reduceOp](Calls& c) mutable {
                  return in_place(t, true, [&](at::Tensor& dense) {
                    return tutti::torch_backend::all_reduce(c, dense, op);
                  });
                });
}

TuttiBackend::WorkPtr TuttiBackend::allreduce_coalesced(Tensors& tensors,
                                                        const c10d::AllreduceCoalescedOptions& o) {
  check("allreduce_coalesced", tensors);
  check_reduction("allreduce_coalesced", tensors[0], o.reduceOp);
  return launch({OpType::ALLREDUCE_COALESCED,
                 "tutti:all_reduce_coalesced",
                 tensors,
                 {},
                 o.timeout,
                 o.asyncOp},
                [tensors, op = o.reduceOp](Calls& c) mutable -> Status {
                  at::Tensor flat = flatten(tensors);
                  TUTTI_RETURN_IF_ERROR(tutti::torch_backend::all_reduce(c, flat, op));
                  unflatten(flat, tensors);
                  return {};
                });
}

TuttiBackend::WorkPtr TuttiBackend::reduce(Tensors& tensors, const c10d::ReduceOptions& o) {
  check_one("reduce", tensors);
  check_root("reduce", o.rootRank);
  check_reduction("reduce", tensors[0], o.reduceOp);
  return launch(
      {OpType::REDUCE, "tutti:reduce", tensors, {}, o.timeout, o.asyncOp},
      [t = tensors[0], op = o.reduceOp, root = static_cast<Rank>(o.rootRank)](Calls& c) mutable {
        return in_place(t, c.rank() == root, [&](at::Tensor& dense) {
          return tutti::torch_backend::reduce(c, dense, op, root);
        });
      });
}

TuttiBackend::WorkPtr TuttiBackend::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                              const c10d::AllgatherOptions& o) {
  check_one("allgather", inputs);
  TORCH_CHECK_VALUE(outputs.size() == 1 && outputs[0].size() == static_cast<size_t>(size_),
                    "tutti: allgather: expected one list of ", size_, " output tensors");
  check("allgather", both(inputs, outputs[0]));
  TORCH_CHECK_VALUE(outputs[0][rank_].numel() == inputs[0].numel(), "tutti: allgather: output ",
                    rank_, " has ", outputs[0][rank_].numel(), " items, the input ",
                    inputs[0].numel());
  return launch({OpType::ALLGATHER, "tutti:all_gather", outputs[0], inputs, o.timeout, o.asyncOp},
                [in = inputs[0], outs = outputs[0]](Calls& c) mutable -> Status {
                  if (same_sizes(outs)) {
                    at::Tensor flat =
                        at::empty({static_cast<int64_t>(outs.size()) * in.numel()}, in.options());
                    TUTTI_RETURN_IF_ERROR(all_gather_into(c, flat, in));
                    unflatten(flat, outs);
                    return {};
                  }
                  outs[c.rank()].copy_(in);
                  for (Rank r = 0; r < c.ranks(); ++r)
                    TUTTI_RETURN_IF_ERROR(broadcast_from(c, outs[r], r));
                  return {};
                });
}

TuttiBackend::WorkPtr TuttiBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                    const c10d::AllgatherOptions& o) {
  check_base("_allgather_base", output, input);
  return launch(
      {OpType::_ALLGATHER_BASE, "tutti:_all_gather_base", {output}, {input}, o.timeout, o.asyncOp},
      [output, input](Calls& c) { return all_gather_into(c, output, input); });
}

TuttiBackend::WorkPtr TuttiBackend::allgather_into_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& o) {
  check_pairs("allgather_into_tensor_coalesced", outputs, inputs);
  return launch({OpType::ALLGATHER_INTO_TENSOR_COALESCED, "tutti:all_gather_into_tensor_coalesced",
                 outputs, inputs, o.timeout, o.asyncOp},
                [outputs, inputs](Calls& c) -> Status {
                  for (size_t i = 0; i < inputs.size(); ++i)
                    TUTTI_RETURN_IF_ERROR(all_gather_into(c, outputs[i], inputs[i]));
                  return {};
                });
}

TuttiBackend::WorkPtr TuttiBackend::allgather_coalesced(std::vector<Tensors>& outputs,
                                                        Tensors& inputs,
                                                        const c10d::AllgatherOptions& o) {
  // Lists of outputs come by rank.
  TORCH_CHECK_VALUE(outputs.size() == static_cast<size_t>(size_),
                    "tutti: allgather_coalesced: ", outputs.size(), " output lists for ", size_,
                    " ranks");
  Tensors all;
  for (const Tensors& list : outputs) {
    TORCH_CHECK_VALUE(list.size() == inputs.size(), "tutti: allgather_coalesced: ", list.size(),
                      " outputs for ", inputs.size(), " inputs");
    all.insert(all.end(), list.begin(), list.end());
  }
  check("allgather_coalesced", both(inputs, all));
  for (size_t i = 0; i < all.size(); ++i)
    TORCH_CHECK_VALUE(all[i].numel() == inputs[i % inputs.size()].numel(),
                      "tutti: allgather_coalesced: output ", i % inputs.size(), " of rank ",
                      i / inputs.size(), " has another size than its input");
  return launch({OpType::ALLGATHER_COALESCED, "tutti:all_gather_coalesced", all, inputs, o.timeout,
                 o.asyncOp},
                [all, inputs](Calls& c) mutable -> Status {
                  const at::Tensor in = flatten(inputs);
                  at::Tensor flat = at::empty({c.ranks() * in.numel()}, in.options());
                  TUTTI_RETURN_IF_ERROR(all_gather_into(c, flat, in));
                  unflatten(flat, all);
                  return {};
                });
}

TuttiBackend::WorkPtr TuttiBackend::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                           const c10d::GatherOptions& o) {
  check_one("gather", inputs);
  check_root("gather", o.rootRank);
  const bool at_root = o.rootRank == rank_;
  Tensors outs;
  if (at_root) {
    TORCH_CHECK_VALUE(outputs.size() == 1 && outputs[0].size() == static_cast<size_t>(size_),
                      "tutti: gather: expected one list of ", size_, " output tensors on the root");
    outs = outputs[0];
    check("gather", both(inputs, outs));
    for (const at::Tensor& t : outs)
      TORCH_CHECK_VALUE(t.numel() == inputs[0].numel(), "tutti: gather: an output has ", t.numel(),
                        " items, the input ", inputs[0].numel());
  } else {
    TORCH_CHECK_VALUE(outputs.empty(), "tutti: gather: outputs are for the root alone");
  }
  return launch(
      {OpType::GATHER, "tutti:gather", outs, inputs, o.timeout, o.asyncOp},
      [in = inputs[0], outs, root = static_cast<Rank>(o.rootRank)](Calls& c) mutable -> Status {
        const at::Tensor dense = contiguous(in);
        const Wire wire = wire_of(dense);
        at::Tensor flat;
        if (!outs.empty()) flat = at::empty({c.ranks() * in.numel()}, in.options());
        TUTTI_RETURN_IF_ERROR(c.gather(dense.const_data_ptr(),
                                       flat.defined() ? flat.mutable_data_ptr() : nullptr,
                                       wire.count(in.numel()), wire.dtype, root));
        if (flat.defined()) unflatten(flat, outs);
        return {};
      });
}

TuttiBackend::WorkPtr TuttiBackend::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                            const c10d::ScatterOptions& o) {
  check_one("scatter", outputs);
  check_root("scatter", o.rootRank);
  Tensors ins;
  if (o.rootRank == rank_) {
    TORCH_CHECK_VALUE(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_),
                      "tutti: scatter: expected one list of ", size_, " input tensors on the root");
    ins = inputs[0];
    check("scatter", both(outputs, ins));
    for (const at::Tensor& t : ins)
      TORCH_CHECK_VALUE(t.numel() == outputs[0].numel(), "tutti: scatter: an input has ", t.numel(),
                        " items, the output ", outputs[0].numel());
  } else {
    TORCH_CHECK_VALUE(inputs.empty(), "tutti: scatter: inputs are for the root alone");
  }
  return launch(
      {OpType::SCATTER, "tutti:scatter", outputs, ins, o.timeout, o.asyncOp},
      [out = outputs[0], ins, root = static_cast<Rank>(o.rootRank)](Calls& c) mutable -> Status {
        const at::Tensor flat = ins.empty() ? at::Tensor() : flatten(ins);
        return in_place(out, true, [&](at::Tensor& dense) {
          const Wire wire = wire_of(dense);
          return c.scatter(flat.defined() ? flat.const_data_ptr() : nullptr,
                           dense.mutable_data_ptr(), wire.count(dense.numel()), wire.dtype, root);
        });
      });
}

TuttiBackend::WorkPtr TuttiBackend::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                                   const c10d::ReduceScatterOptions& o) {
  check_one("reduce_scatter", outputs);
  TORCH_CHECK_VALUE(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_),
                    "tutti: reduce_scatter: expected one list of ", size_, " input tensors");
  check("reduce_scatter", both(outputs, inputs[0]));
  check_reduction("reduce_scatter", outputs[0], o.reduceOp);
  TORCH_CHECK_VALUE(inputs[0][rank_].numel() == outputs[0].numel(), "tutti: reduce_scatter: input ",
                    rank_, " has ", inputs[0][rank_].numel(), " items, the output ",
                    outputs[0].numel());
  return launch(
      {OpType::REDUCE_SCATTER, "tutti:reduce_scatter", outputs, inputs[0], o.timeout, o.asyncOp},
      [out = outputs[0], ins = inputs[0], op = o.reduceOp](Calls& c) mutable -> Status {
        if (same_sizes(ins)) return reduce_scatter_into(c, out, flatten(ins), op);
        for (Rank r = 0; r < c.ranks(); ++r) {
          at::Tensor part = contiguous(ins[r]).clone();
          TUTTI_RETURN_IF_ERROR(tutti::torch_backend::reduce(c, part, op, r));
          if (r == c.rank()) out.copy_(part.view(out.sizes()));
        }
        return {};
      });
}

TuttiBackend::WorkPtr TuttiBackend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                         const c10d::ReduceScatterOptions& o) {
  check_base("_reduce_scatter_base", input, output);
  check_reduction("_reduce_scatter_base", input, o.reduceOp);
  return launch({OpType::_REDUCE_SCATTER_BASE,
                 "tutti:_reduce_scatter_base",
                 {output},
                 {input},
                 o.timeout,
                 o.asyncOp},
                [output, input, op = o.reduceOp](Calls& c) {
                  return reduce_scatter_into(c, output, input, op);
                });
}

TuttiBackend::WorkPtr TuttiBackend::reduce_scatter_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& o) {
  check_pairs("reduce_scatter_tensor_coalesced", inputs, outputs);
  for (const at::Tensor& t : inputs)
    check_reduction("reduce_scatter_tensor_coalesced", t, o.reduceOp);
  return launch({OpType::REDUCE_SCATTER_TENSOR_COALESCED, "tutti:reduce_scatter_tensor_coalesced",
                 outputs, inputs, o.timeout, o.asyncOp},
                [outputs, inputs, op = o.reduceOp](Calls& c) -> Status {
                  for (size_t i = 0; i < inputs.size(); ++i)
                    TUTTI_RETURN_IF_ERROR(reduce_scatter_into(c, outputs[i], inputs[i], op));
                  return {};
                });
}

TuttiBackend::WorkPtr TuttiBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                  std::vector<int64_t>& output_splits,
                                                  std::vector<int64_t>& input_splits,
                                                  const c10d::AllToAllOptions& o) {
  check("alltoall_base", {output, input});
  const auto ranks = static_cast<size_t>(size_);
  std::vector<size_t> send = block_items("the input", input, input_splits, ranks);
  std::vector<size_t> recv = block_items("the output", output, output_splits, ranks);
  TORCH_CHECK_VALUE(send[rank_] == recv[rank_], "tutti: alltoall_base: ", send[rank_],
                    " items from this rank to itself, but room for ", recv[rank_]);
  return launch(
      {OpType::ALLTOALL_BASE, "tutti:all_to_all", {output}, {input}, o.timeout, o.asyncOp},
      [output, input, send, recv](Calls& c) mutable {
        return in_place(output, true, [&](at::Tensor& out) {
          return exchange(c, contiguous(input), send, out, recv);
        });
      });
}

TuttiBackend::WorkPtr TuttiBackend::alltoall(Tensors& outputs, Tensors& inputs,
                                             const c10d::AllToAllOptions& o) {
  const auto ranks = static_cast<size_t>(size_);
  TORCH_CHECK_VALUE(outputs.size() == ranks && inputs.size() == ranks,
                    "tutti: alltoall: ", inputs.size(), " inputs and ", outputs.size(),
                    " outputs for ", size_, " ranks");
  check("alltoall", both(inputs, outputs));
  TORCH_CHECK_VALUE(inputs[rank_].numel() == outputs[rank_].numel(),
                    "tutti: alltoall: ", inputs[rank_].numel(),
                    " items from this rank to itself, but room for ", outputs[rank_].numel());
  return launch({OpType::ALLTOALL, "tutti:all_to_all", outputs, inputs, o.timeout, o.asyncOp},
                [inputs, outputs](Calls& c) mutable -> Status {
                  const at::Tensor in = flatten(inputs);
                  int64_t items = 0;
                  for (const at::Tensor& t : outputs) items += t.numel();
                  at::Tensor out = at::empty({items}, in.options());
                  TUTTI_RETURN_IF_ERROR(exchange(c, in, sizes_of(inputs), out, sizes_of(outputs)));
                  unflatten(out, outputs);
                  return {};
                });
}

// On a device: after what is on its current stream, on every rank.
TuttiBackend::WorkPtr TuttiBackend::barrier(const c10d::BarrierOptions& o) {
  std::optional<c10::Device> device = o.device;
  if (!device && !o.device_ids.empty())
    device = c10::Device(served_, static_cast<c10::DeviceIndex>(o.device_ids[0]));
  Call call{OpType::BARRIER, "tutti:barrier", {}, {}, o.timeout, o.asyncOp, true};
  if (!device || device->type() != served_)
    return launch(std::move(call), [](Calls& c) { return c.barrier(); });
  const at::Tensor token = at::zeros({1}, at::device(*device).dtype(at::kByte));
  call.inputs = {token};
  return launch(std::move(call), [token](Calls& c) {
    return tutti::torch_backend::all_reduce(c, token, c10d::ReduceOp::SUM);
  });
}

void TuttiBackend::monitoredBarrier(const c10d::BarrierOptions& o, bool /*wait_all_ranks*/) {
  barrier(o)->wait(o.timeout == c10d::kUnsetTimeout ? kNoTimeout : o.timeout);
}

// --- point to point

Result<std::unique_ptr<Communicator>> TuttiBackend::connect(bool sends, int peer,
                                                            const std::string& what) {
  const int from = sends ? rank_ : peer, to = sends ? peer : rank_;
  const std::string key = "tutti/" + what + "/" + std::to_string(from) + "/" + std::to_string(to);
  return meet(*store_, key, sends ? 0 : 1, 2, options_->timeout,
              "rank " + std::to_string(rank_) + ": peer " + std::to_string(peer),
              [this] { return shut_down_ || aborted_; });
}

Channel& TuttiBackend::channel(bool sends, int peer) {
  std::lock_guard lock(channels_mutex_);
  std::unique_ptr<Channel>& slot = channels_[{sends, peer}];
  if (slot == nullptr)
    slot = std::make_unique<Channel>(
        sends, peer, [this, sends, peer] { return connect(sends, peer, "channel"); });
  return *slot;
}

// The first device that a rank has messages to a peer on goes with the peer's first one.
DeviceChannel& TuttiBackend::device_channel(bool sends, int peer, c10::Device device) {
  std::lock_guard lock(channels_mutex_);
  const auto of_pair = [&](const auto& one) {
    return std::get<0>(one.first) == sends && std::get<1>(one.first) == peer;
  };
  const auto number = std::count_if(device_channels_.begin(), device_channels_.end(), of_pair);
  std::unique_ptr<DeviceChannel>& slot = device_channels_[{sends, peer, device.index()}];
  if (slot == nullptr)
    slot = std::make_unique<DeviceChannel>(device, [this, sends, peer, number] {
      return connect(sends, peer, "device_channel/" + std::to_string(number));
    });
  return *slot;
}

TuttiBackend::WorkPtr TuttiBackend::send(Tensors& tensors, int peer, int tag) {
  check_one("send", tensors);
  check_peer("send", peer);
  Call call{OpType::SEND, "tutti:send", tensors, {}, c10d::kUnsetTimeout, true};
  if (!tensors[0].device().is_cpu())
    return post_message({tensors[0], true, static_cast<Rank>(peer)}, std::move(call));
  c10::intrusive_ptr<TuttiWork> work = make_work(call);
  channel(true, peer).post(contiguous(tensors[0]), tag, work, {});
  return work;
}

TuttiBackend::WorkPtr TuttiBackend::recv(Tensors& tensors, int peer, int tag) {
  check_one("recv", tensors);
  check_peer("recv", peer);
  Call call{OpType::RECV, "tutti:recv", tensors, {}, c10d::kUnsetTimeout, true};
  if (!tensors[0].device().is_cpu())
    return post_message({tensors[0], false, static_cast<Rank>(peer)}, std::move(call));
  c10::intrusive_ptr<TuttiWork> work = make_work(call);
  const at::Tensor tensor = tensors[0];
  const at::Tensor dense =
      tensor.is_contiguous() ? tensor : at::empty(tensor.sizes(), tensor.dtype());
  std::function<void()> then;
  if (!dense.is_same(tensor)) then = [tensor, dense] { tensor.copy_(dense); };
  channel(false, peer).post(dense, tag, work, std::move(then));
  return work;
}

// On a device. What is coalesced is one group of the device's lane, whose messages cannot wait for
// each other.
TuttiBackend::WorkPtr TuttiBackend::post_message(Message message, Call call) {
  WithoutGil without_gil;
  const c10::Device device = message.tensor.device();
  const c10::Stream from = current_stream(device);
  auto work = make_work(call, TuttiWork::OnDevice{from, {message.tensor}});
  c10::Event ready = mark(from);
  if (coalescing_) {
    messages_.push_back({std::move(message), std::move(ready), work});
    return work;
  }
  const auto peer = static_cast<int>(message.peer);
  const bool sends = message.sends;
  message.peer = sends ? 1 : 0;  // of the two
  device_channel(sends, peer, device)
      .post(
          std::move(ready),
          [message](Calls& c) {
            return transfer(c, {&message, 1});
          },
          work);
  return work;
}

void TuttiBackend::launch_messages() {
  std::map<c10::DeviceIndex, std::vector<Posted>> by_device;
  for (Posted& posted : std::exchange(messages_, {}))
    by_device[posted.message.tensor.get_device()].push_back(std::move(posted));
  WithoutGil without_gil;
  for (auto& [index, all] : by_device) {
    std::vector<Message> messages;
    std::vector<c10::Event> ready;
    std::vector<c10::intrusive_ptr<TuttiWork>> works;
    for (Posted& posted : all) {
      messages.push_back(std::move(posted.message));
      ready.push_back(std::move(posted.ready));
      works.push_back(std::move(posted.work));
    }
    lane(c10::Device(served_, index))
        .enqueue(
            ready, [&](Calls& c) { return transfer(c, messages); }, works);
  }
}

TuttiBackend::WorkPtr TuttiBackend::recvAnysource(Tensors&, int) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "tutti: recv from any rank is not supported: name the source");
}

}  // namespace tutti::torch_backend
