// Harness over tutti::Communicator, see tutti_harness.h.
#include "perf/tutti_harness.h"

#include <cstring>

#include "perf/verifiable.h"

namespace tutti::perf {

template <class Calls>
Status TuttiHarness::exchange(Calls& calls, const Call& call) {
  if (counts_.empty() || block_ != call.count) {
    block_ = call.count;
    counts_.assign(ranks(), call.count);
    offsets_.resize(ranks());
    for (size_t peer = 0; peer < offsets_.size(); ++peer) offsets_[peer] = peer * call.count;
  }
  return calls.all_to_all_v(call.send, counts_, offsets_, call.recv, counts_, offsets_, call.dtype);
}

template <class Calls>
Status TuttiHarness::shift(Calls& calls, const Call& call) {
  const uint32_t n = ranks();
  TUTTI_RETURN_IF_ERROR(communicator_->group_start());
  TUTTI_RETURN_IF_ERROR(calls.send(call.send, call.count, call.dtype, (rank() + 1) % n));
  TUTTI_RETURN_IF_ERROR(calls.recv(call.recv, call.count, call.dtype, (rank() + n - 1) % n));
  return communicator_->group_end();
}

template <class Calls>
Status TuttiHarness::dispatch(Calls& c, const Call& call) {
  Reduction op(call.op);
  if (call.op == ReduceOp::premul_sum) {
    const uint64_t bits = Pattern::scalar_bits(call.dtype, rank());
    op = Reduction::premul_sum(call.dtype, &bits);
  }
  switch (call.collective) {
    case Collective::all_reduce:
      return c.all_reduce(call.send, call.recv, call.count, call.dtype, op);
    case Collective::reduce_scatter:
      return c.reduce_scatter(call.send, call.recv, call.count, call.dtype, op);
    case Collective::all_gather:
      return c.all_gather(call.send, call.recv, call.count, call.dtype);
    case Collective::broadcast:
      return c.broadcast(call.send, call.recv, call.count, call.dtype, call.root);
    case Collective::reduce:
      return c.reduce(call.send, call.recv, call.count, call.dtype, op, call.root);
    case Collective::all_to_all:
      return c.all_to_all(call.send, call.recv, call.count, call.dtype);
    case Collective::all_to_all_v:
      return exchange(c, call);
    case Collective::gather:
      return c.gather(call.send, call.recv, call.count, call.dtype, call.root);
    case Collective::scatter:
      return c.scatter(call.send, call.recv, call.count, call.dtype, call.root);
    case Collective::send_recv:
      return shift(c, call);
    case Collective::barrier:
      return communicator_->barrier();
  }
  return Status(Code::invalid_argument, "unknown collective");
}

bool TuttiHarness::run(const Call& call) {
  if (device_ == nullptr) return keep(dispatch(*communicator_, call));
  OnStream stream = communicator_->on_stream(device_->stream());
  return keep(dispatch(stream, call));
}

bool TuttiHarness::record(const std::function<bool()>& body) {
  bool well = true;
  const bool recorded = keep(device_->record([&]() -> Status {
    well = body();
    return {};
  }));
  return recorded && well;
}

std::vector<double> TuttiHarness::all_gather(const std::vector<double>& mine) {
  std::vector<double> all(mine.size() * ranks());
  if (!keep(communicator_->all_gather(mine.data(), all.data(), mine.size(), DType::float64)))
    return {};
  return all;
}

void* TuttiHarness::allocate(size_t bytes, BufferKind kind) {
  if (kind == BufferKind::private_memory) return allocate_pages(bytes);
  if (kind == BufferKind::device) {
    const Result<void*> memory = device_->allocate(bytes);
    keep(memory.status());
    return memory ? *memory : nullptr;
  }
  Status why;
  void* memory = mem_alloc(bytes, &why);
  if (memory == nullptr) {
    error_ = why.to_string();
    return nullptr;
  }
  std::memset(memory, 0, bytes);  // touched, as private pages are
  return memory;
}

void TuttiHarness::release(void* memory, size_t bytes, BufferKind kind) {
  if (kind == BufferKind::private_memory)
    release_pages(memory, bytes);
  else if (kind == BufferKind::device)
    device_->release(memory);
  else
    keep(mem_free(memory));
}

std::string TuttiHarness::path(const Call& call) {
  if (device_ != nullptr) return "device buffers, in stream order";
  return communicator_->explain(call.collective, call.count, call.dtype, call.root,
                                call.send == call.recv);
}

}  // namespace tutti::perf
