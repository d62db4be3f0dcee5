#include "bindings/python/src/torch/backend.h"

#include <set>
#include <thread>

#include "bindings/python/src/torch/signals.h"
#include "bindings/python/src/torch/tensors.h"

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

Result<std::unique_ptr<Communicator>> meet(c10d::Store& store, const std::string& key, Rank rank,
                                           uint32_t ranks, milliseconds timeout,
                                           const std::string& root) {
  UniqueId id;
  try {
    if (rank == 0) {
      Result<UniqueId> made = UniqueId::create();
      if (!made) return made.status();
      id = *made;
      const auto* bytes = reinterpret_cast<const uint8_t*>(id.bytes.data());
      if (ranks > 1) store.set(key, std::vector<uint8_t>(bytes, bytes + id.bytes.size()));
    } else {
      Result<std::vector<uint8_t>> value = wait_for_key(store, key, timeout, root);
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

void check_one(const char* operation, const Tensors& tensors) {
  TORCH_CHECK_VALUE(tensors.size() == 1, "tutti: ", operation, ": ", tensors.size(),
                    " tensors; one is expected");
  check_tensors(operation, tensors);
}

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

Status all_gather_into(Communicator& c, at::Tensor output, const at::Tensor& input) {
  const at::Tensor in = contiguous(input);
  const Wire wire = wire_of(in);
  return in_place(output, true, [&](at::Tensor& out) {
    return c.all_gather(in.const_data_ptr(), out.mutable_data_ptr(), wire.count(in.numel()),
                        wire.dtype);
  });
}

Status reduce_scatter_into(Communicator& c, at::Tensor output, const at::Tensor& input,
                           const c10d::ReduceOp& op) {
  return in_place(output, true, [&](at::Tensor& out) {
    return tutti::torch_backend::reduce_scatter(c, contiguous(input).view({-1}), out, op);
  });
}

Status broadcast_from(Communicator& c, at::Tensor tensor, Rank root) {
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

Status exchange(Communicator& c, const at::Tensor& in, std::vector<size_t> send, at::Tensor out,
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
                                                       int rank, int size, milliseconds timeout) {
  WithoutGil without_gil;
  Result<std::unique_ptr<Communicator>> made = meet(*store, "tutti/id", static_cast<Rank>(rank),
                                                    static_cast<uint32_t>(size), timeout, "rank 0");
  if (!made) fail(made.status());
  return c10::make_intrusive<TuttiBackend>(store, rank, size, timeout, std::move(*made));
}

TuttiBackend::TuttiBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                           milliseconds timeout, std::shared_ptr<Communicator> communicator)
    : Backend(rank, size),
      store_(std::move(store)),
      options_(c10::make_intrusive<Options>("tutti", timeout)),
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
  communicator_->abort(reason);
  std::lock_guard lock(channels_mutex_);
  for (auto& [key, one] : channels_) one->abort(reason);
}

c10d::ErrorType TuttiBackend::getError() {
  switch (communicator_->error().code()) {
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
                timeout);
}

// --- running

Status TuttiBackend::run(const Body& body) {
  at::NoGradGuard no_grad;
  try {
    return body(*communicator_);
  } catch (const std::exception& error) {  // of torch's own operators: no memory
    return Status(Code::internal_error, error.what());
  }
}

c10::intrusive_ptr<TuttiWork> TuttiBackend::make_work(Call& call) {
  TORCH_CHECK(!shut_down_, "tutti: the process group was shut down");
  const bool bounded = call.timeout != c10d::kUnsetTimeout && call.timeout != options_->timeout;
  auto work =
      c10::make_intrusive<TuttiWork>(rank_, call.type, call.title, std::move(call.outputs),
                                     ++sequence_, bounded ? call.timeout : kNoTimeout,
                                     [this](const std::string& reason) { abort_all(reason); });
  if (coalescing_) coalesced_.push_back(work);
  return work;
}

TuttiBackend::WorkPtr TuttiBackend::launch(Call call, Body body) {
  const bool async = call.async || coalescing_;
  c10::intrusive_ptr<TuttiWork> work = make_work(call);
  SignalScope signals;
  {
    WithoutGil without_gil;
    std::unique_lock lock(issuing_);
    if (!async && pending_ == 0) {
      // The caller would only wait: it does the work itself. Whoever issues meanwhile waits, since
      // a communicator has one caller at a time.
      const Status status = run(body);
      lock.unlock();
      work->complete(status);
    } else {
      ++pending_;
      communicator_->submit([this, work, body = std::move(body)](Communicator&) {
        const Status status = run(body);
        --pending_;
        work->complete(status);
        return status;
      });
    }
  }
  signals.rethrow();
  return work;
}

void TuttiBackend::startCoalescing() {
  coalescing_ = true;
  coalesced_.clear();
}

TuttiBackend::WorkPtr TuttiBackend::endCoalescing() {
  coalescing_ = false;
  WorkPtr all = all_of(rank_, sequence_, coalesced_);
  coalesced_.clear();
  return all;
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
  return launch({OpType::BROADCAST, "tutti:broadcast", tensors, o.timeout, o.asyncOp},
                [t = tensors[0], root = static_cast<Rank>(o.rootRank)](Communicator& c) {
                  return broadcast_from(c, t, root);
                });
}

TuttiBackend::WorkPtr TuttiBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& o) {
  check_one("allreduce", tensors);
  check_reduction("allreduce", tensors[0], o.reduceOp);
  return launch({OpType::ALLREDUCE, "tutti:all_reduce", tensors, o.timeout, o.asyncOp},
                [t = tensors[0], op = o.reduceOp](Communicator& c) mutable {
                  return in_place(t, true, [&](at::Tensor& dense) {
                    return tutti::torch_backend::all_reduce(c, dense, op);
                  });
                });
}

TuttiBackend::WorkPtr TuttiBackend::allreduce_coalesced(Tensors& tensors,
                                                        const c10d::AllreduceCoalescedOptions& o) {
  check_tensors("allreduce_coalesced", tensors);
  check_reduction("allreduce_coalesced", tensors[0], o.reduceOp);
  return launch(
      {OpType::ALLREDUCE_COALESCED, "tutti:all_reduce_coalesced", tensors, o.timeout, o.asyncOp},
      [tensors, op = o.reduceOp](Communicator& c) mutable -> Status {
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
  return launch({OpType::REDUCE, "tutti:reduce", tensors, o.timeout, o.asyncOp},
                [t = tensors[0], op = o.reduceOp,
                 root = static_cast<Rank>(o.rootRank)](Communicator& c) mutable {
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
  check_tensors("allgather", both(inputs, outputs[0]));
  TORCH_CHECK_VALUE(outputs[0][rank_].numel() == inputs[0].numel(), "tutti: allgather: output ",
                    rank_, " has ", outputs[0][rank_].numel(), " items, the input ",
                    inputs[0].numel());
  return launch({OpType::ALLGATHER, "tutti:all_gather", outputs[0], o.timeout, o.asyncOp},
                [in = inputs[0], outs = outputs[0]](Communicator& c) mutable -> Status {
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

namespace {

void check_base(const char* operation, const at::Tensor& whole, const at::Tensor& part, int size) {
  check_tensors(operation, {whole, part});
  TORCH_CHECK_VALUE(whole.numel() == part.numel() * size, "tutti: ", operation, ": ", whole.numel(),
                    " items for ", size, " ranks with ", part.numel(), " each");
}

}  // namespace

TuttiBackend::WorkPtr TuttiBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                    const c10d::AllgatherOptions& o) {
  check_base("_allgather_base", output, input, size_);
  return launch({OpType::_ALLGATHER_BASE, "tutti:_all_gather_base", {output}, o.timeout, o.asyncOp},
                [output, input](Communicator& c) { return all_gather_into(c, output, input); });
}

TuttiBackend::WorkPtr TuttiBackend::allgather_into_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& o) {
  TORCH_CHECK_VALUE(outputs.size() == inputs.size(),
                    "tutti: allgather_into_tensor_coalesced: ", outputs.size(), " outputs for ",
                    inputs.size(), " inputs");
  for (size_t i = 0; i < inputs.size(); ++i)
    check_base("allgather_into_tensor_coalesced", outputs[i], inputs[i], size_);
  return launch({OpType::ALLGATHER_INTO_TENSOR_COALESCED, "tutti:all_gather_into_tensor_coalesced",
                 outputs, o.timeout, o.asyncOp},
                [outputs, inputs](Communicator& c) -> Status {
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
  check_tensors("allgather_coalesced", both(inputs, all));
  for (size_t i = 0; i < all.size(); ++i)
    TORCH_CHECK_VALUE(all[i].numel() == inputs[i % inputs.size()].numel(),
                      "tutti: allgather_coalesced: output ", i % inputs.size(), " of rank ",
                      i / inputs.size(), " has another size than its input");
  return launch(
      {OpType::ALLGATHER_COALESCED, "tutti:all_gather_coalesced", all, o.timeout, o.asyncOp},
      [all, inputs](Communicator& c) mutable -> Status {
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
    check_tensors("gather", both(inputs, outs));
    for (const at::Tensor& t : outs)
      TORCH_CHECK_VALUE(t.numel() == inputs[0].numel(), "tutti: gather: an output has ", t.numel(),
                        " items, the input ", inputs[0].numel());
  } else {
    TORCH_CHECK_VALUE(outputs.empty(), "tutti: gather: outputs are for the root alone");
  }
  return launch({OpType::GATHER, "tutti:gather", outs, o.timeout, o.asyncOp},
                [in = inputs[0], outs,
                 root = static_cast<Rank>(o.rootRank)](Communicator& c) mutable -> Status {
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
    check_tensors("scatter", both(outputs, ins));
    for (const at::Tensor& t : ins)
      TORCH_CHECK_VALUE(t.numel() == outputs[0].numel(), "tutti: scatter: an input has ", t.numel(),
                        " items, the output ", outputs[0].numel());
  } else {
    TORCH_CHECK_VALUE(inputs.empty(), "tutti: scatter: inputs are for the root alone");
  }
  return launch({OpType::SCATTER, "tutti:scatter", outputs, o.timeout, o.asyncOp},
                [out = outputs[0], ins,
                 root = static_cast<Rank>(o.rootRank)](Communicator& c) mutable -> Status {
                  const at::Tensor flat = ins.empty() ? at::Tensor() : flatten(ins);
                  return in_place(out, true, [&](at::Tensor& dense) {
                    const Wire wire = wire_of(dense);
                    return c.scatter(flat.defined() ? flat.const_data_ptr() : nullptr,
                                     dense.mutable_data_ptr(), wire.count(dense.numel()),
                                     wire.dtype, root);
                  });
                });
}

TuttiBackend::WorkPtr TuttiBackend::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                                   const c10d::ReduceScatterOptions& o) {
  check_one("reduce_scatter", outputs);
  TORCH_CHECK_VALUE(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_),
                    "tutti: reduce_scatter: expected one list of ", size_, " input tensors");
  check_tensors("reduce_scatter", both(outputs, inputs[0]));
  check_reduction("reduce_scatter", outputs[0], o.reduceOp);
  TORCH_CHECK_VALUE(inputs[0][rank_].numel() == outputs[0].numel(), "tutti: reduce_scatter: input ",
                    rank_, " has ", inputs[0][rank_].numel(), " items, the output ",
                    outputs[0].numel());
  return launch(
      {OpType::REDUCE_SCATTER, "tutti:reduce_scatter", outputs, o.timeout, o.asyncOp},
      [out = outputs[0], ins = inputs[0], op = o.reduceOp](Communicator& c) mutable -> Status {
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
  check_base("_reduce_scatter_base", input, output, size_);
  check_reduction("_reduce_scatter_base", input, o.reduceOp);
  return launch(
      {OpType::_REDUCE_SCATTER_BASE, "tutti:_reduce_scatter_base", {output}, o.timeout, o.asyncOp},
      [output, input, op = o.reduceOp](Communicator& c) {
        return reduce_scatter_into(c, output, input, op);
      });
}

TuttiBackend::WorkPtr TuttiBackend::reduce_scatter_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& o) {
  TORCH_CHECK_VALUE(outputs.size() == inputs.size(),
                    "tutti: reduce_scatter_tensor_coalesced: ", outputs.size(), " outputs for ",
                    inputs.size(), " inputs");
  for (size_t i = 0; i < inputs.size(); ++i) {
    check_base("reduce_scatter_tensor_coalesced", inputs[i], outputs[i], size_);
    check_reduction("reduce_scatter_tensor_coalesced", inputs[i], o.reduceOp);
  }
  return launch({OpType::REDUCE_SCATTER_TENSOR_COALESCED, "tutti:reduce_scatter_tensor_coalesced",
                 outputs, o.timeout, o.asyncOp},
                [outputs, inputs, op = o.reduceOp](Communicator& c) -> Status {
                  for (size_t i = 0; i < inputs.size(); ++i)
                    TUTTI_RETURN_IF_ERROR(reduce_scatter_into(c, outputs[i], inputs[i], op));
                  return {};
                });
}

TuttiBackend::WorkPtr TuttiBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                  std::vector<int64_t>& output_splits,
                                                  std::vector<int64_t>& input_splits,
                                                  const c10d::AllToAllOptions& o) {
  check_tensors("alltoall_base", {output, input});
  const auto ranks = static_cast<size_t>(size_);
  std::vector<size_t> send = block_items("the input", input, input_splits, ranks);
  std::vector<size_t> recv = block_items("the output", output, output_splits, ranks);
  TORCH_CHECK_VALUE(send[rank_] == recv[rank_], "tutti: alltoall_base: ", send[rank_],
                    " items from this rank to itself, but room for ", recv[rank_]);
  return launch({OpType::ALLTOALL_BASE, "tutti:all_to_all", {output}, o.timeout, o.asyncOp},
                [output, input, send, recv](Communicator& c) mutable {
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
  check_tensors("alltoall", both(inputs, outputs));
  TORCH_CHECK_VALUE(inputs[rank_].numel() == outputs[rank_].numel(),
                    "tutti: alltoall: ", inputs[rank_].numel(),
                    " items from this rank to itself, but room for ", outputs[rank_].numel());
  return launch({OpType::ALLTOALL, "tutti:all_to_all", outputs, o.timeout, o.asyncOp},
                [inputs, outputs](Communicator& c) mutable -> Status {
                  const at::Tensor in = flatten(inputs);
                  int64_t items = 0;
                  for (const at::Tensor& t : outputs) items += t.numel();
                  at::Tensor out = at::empty({items}, in.options());
                  TUTTI_RETURN_IF_ERROR(exchange(c, in, sizes_of(inputs), out, sizes_of(outputs)));
                  unflatten(out, outputs);
                  return {};
                });
}

TuttiBackend::WorkPtr TuttiBackend::barrier(const c10d::BarrierOptions& o) {
  return launch({OpType::BARRIER, "tutti:barrier", {}, o.timeout, o.asyncOp},
                [](Communicator& c) { return c.barrier(); });
}

void TuttiBackend::monitoredBarrier(const c10d::BarrierOptions& o, bool /*wait_all_ranks*/) {
  barrier(o)->wait(o.timeout == c10d::kUnsetTimeout ? kNoTimeout : o.timeout);
}

// --- point to point

Channel& TuttiBackend::channel(bool sends, int peer) {
  std::lock_guard lock(channels_mutex_);
  std::unique_ptr<Channel>& slot = channels_[{sends, peer}];
  if (slot == nullptr) {
    const int from = sends ? rank_ : peer, to = sends ? peer : rank_;
    const std::string key = "tutti/channel/" + std::to_string(from) + "/" + std::to_string(to);
    slot = std::make_unique<Channel>(sends, peer, [this, key, sends, peer] {
      return meet(*store_, key, sends ? 0 : 1, 2, options_->timeout,
                  "rank " + std::to_string(rank_) + ": peer " + std::to_string(peer));
    });
  }
  return *slot;
}

TuttiBackend::WorkPtr TuttiBackend::send(Tensors& tensors, int peer, int tag) {
  check_one("send", tensors);
  check_peer("send", peer);
  Call call{OpType::SEND, "tutti:send", tensors, c10d::kUnsetTimeout, true};
  c10::intrusive_ptr<TuttiWork> work = make_work(call);
  channel(true, peer).post(contiguous(tensors[0]), tag, work, {});
  return work;
}

TuttiBackend::WorkPtr TuttiBackend::recv(Tensors& tensors, int peer, int tag) {
  check_one("recv", tensors);
  check_peer("recv", peer);
  Call call{OpType::RECV, "tutti:recv", tensors, c10d::kUnsetTimeout, true};
  c10::intrusive_ptr<TuttiWork> work = make_work(call);
  const at::Tensor tensor = tensors[0];
  const at::Tensor dense =
      tensor.is_contiguous() ? tensor : at::empty(tensor.sizes(), tensor.dtype());
  std::function<void()> then;
  if (!dense.is_same(tensor)) then = [tensor, dense] { tensor.copy_(dense); };
  channel(false, peer).post(dense, tag, work, std::move(then));
  return work;
}

TuttiBackend::WorkPtr TuttiBackend::recvAnysource(Tensors&, int) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "tutti: recv from any rank is not supported: name the source");
}

}  // namespace tutti::torch_backend
