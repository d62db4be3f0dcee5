#include "bindings/python/src/operation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "bindings/python/src/errors.h"

namespace tutti::python {
namespace {

ArgumentName send_of(const Place& p) { return {p.call, "sendbuf", p.stream}; }
ArgumentName recv_of(const Place& p) { return {p.call, "recvbuf", p.stream}; }

Rank check_rank(const Place& place, const char* argument, int64_t rank) {
  if (rank < 0 || rank >= place.ranks)
    throw_value_error(
        {place.call, argument},
        fmt::format("is {}; this communicator has ranks 0 to {}", rank, place.ranks - 1));
  return static_cast<Rank>(rank);
}

// --- small floats, for the factor of PreMulSum

// The value of a small float without infinities at the top (e4m3fn) or with them (e5m2).
double decode_float8(unsigned code, int exponent_bits) {
  const int mantissa_bits = 7 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = static_cast<int>(code) & ((1 << mantissa_bits) - 1);
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                    : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// The nearest finite one, ties to even.
uint8_t encode_float8(double value, int exponent_bits) {
  const unsigned largest = exponent_bits == 4 ? 0x7e : 0x7b;
  unsigned best = 0;
  for (unsigned code = 1; code <= largest; ++code) {
    const double nearer = std::abs(decode_float8(code, exponent_bits) - std::abs(value)) -
                          std::abs(decode_float8(best, exponent_bits) - std::abs(value));
    if (nearer < 0 || (nearer == 0 && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(value) ? 0x80U : 0U));
}

// An IEEE float of 16 bits: 5 bits of exponent are float16, 8 bfloat16. The nearest, ties to even.
uint16_t encode_float16(double value, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits;
  const int least = 2 - (1 << (exponent_bits - 1));  // the exponent of subnormals
  const auto infinity = static_cast<unsigned>((1 << exponent_bits) - 1) << mantissa_bits;
  unsigned code = infinity | (std::isnan(value) ? 1U << (mantissa_bits - 1) : 0U);
  if (std::isfinite(value)) {
    const double magnitude = std::abs(value);
    const int exponent = magnitude == 0 ? least : std::max(std::ilogb(magnitude), least);
    const double units = std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent));
    // A mantissa that rounds up to the next power of two carries into the exponent by itself.
    code = static_cast<unsigned>(std::min(std::ldexp(exponent - least, mantissa_bits) + units,
                                          static_cast<double>(infinity)));
  }
  return static_cast<uint16_t>(code | (std::signbit(value) ? 0x8000U : 0U));
}

template <class Integer>
Reduction integral_factor(const Place& place, DType dtype, double factor) {
  if (factor != std::floor(factor) ||
      factor < static_cast<double>(std::numeric_limits<Integer>::min()) ||
      factor >= std::ldexp(1.0, std::numeric_limits<Integer>::digits))
    throw_value_error({place.call, "op"},
                      fmt::format("multiplies by {}, which is no {}", factor, name(dtype)));
  const auto scalar = static_cast<Integer>(factor);
  return Reduction::premul_sum(dtype, &scalar);
}

Reduction with_factor(const Place& place, DType dtype, double factor) {
  const auto as = [&](auto scalar) { return Reduction::premul_sum(dtype, &scalar); };
  switch (dtype) {
    case DType::int8:
      return integral_factor<int8_t>(place, dtype, factor);
    case DType::uint8:
      return integral_factor<uint8_t>(place, dtype, factor);
    case DType::int32:
      return integral_factor<int32_t>(place, dtype, factor);
    case DType::uint32:
      return integral_factor<uint32_t>(place, dtype, factor);
    case DType::int64:
      return integral_factor<int64_t>(place, dtype, factor);
    case DType::uint64:
      return integral_factor<uint64_t>(place, dtype, factor);
    case DType::float16:
      return as(encode_float16(factor, 5));
    case DType::float32:
      return as(static_cast<float>(factor));
    case DType::float64:
      return as(factor);
    case DType::bfloat16:
      return as(encode_float16(factor, 8));
    case DType::float8_e4m3:
      return as(encode_float8(factor, 4));
    case DType::float8_e5m2:
      return as(encode_float8(factor, 5));
  }
  return {};
}

// --- what all calls check

Reduction check_operator(const Place& place, const Element& element, const Operator& op,
                         const ArgumentName& name) {
  const ReduceOp* plain = std::get_if<ReduceOp>(&op);
  if (element.kind == Element::Kind::opaque)
    throw_type_error(name, fmt::format("has dtype {}, which cannot be reduced", element.name));
  if (element.kind == Element::Kind::boolean &&
      (plain == nullptr || (*plain != ReduceOp::min && *plain != ReduceOp::max)))
    throw_type_error(name, "is bool, which only MIN (all) and MAX (any) reduce");
  if (element.kind == Element::Kind::complex &&
      (plain == nullptr || (*plain != ReduceOp::sum && *plain != ReduceOp::avg)))
    throw_type_error(name, "is complex, which only SUM and AVG reduce");
  if (plain != nullptr && *plain == ReduceOp::premul_sum)
    throw_value_error({place.call, "op"}, "PREMUL_SUM needs its factor: tutti.premul_sum(factor)");
  return plain != nullptr ? Reduction(*plain)
                          : with_factor(place, element.wire, std::get<PreMulSum>(op).factor);
}

void check_same_dtype(const Place& place, const MemoryView& send, const MemoryView& recv) {
  if (!(send.element() == recv.element()))
    throw_type_error(recv_of(place), fmt::format("has dtype {}, but sendbuf has {}",
                                                 recv.element().name, send.element().name));
}

void check_same_shape(const Place& place, const MemoryView& send, const MemoryView& recv) {
  check_same_dtype(place, send, recv);
  if (!recv.same_shape(send))
    throw_value_error(recv_of(place), fmt::format("has shape {}, but sendbuf has {}",
                                                  recv.shape_text(), send.shape_text()));
}

// `whole` must hold one block like `block` for each rank.
void check_blocks(const Place& place, const MemoryView& whole, const ArgumentName& whole_name,
                  const MemoryView& block) {
  if (whole.items() != block.items() * place.ranks)
    throw_value_error(whole_name,
                      fmt::format("has {} items; {} ranks with {} each make {}", whole.items(),
                                  place.ranks, block.items(), block.items() * place.ranks));
}

// Items of one rank's share of `whole`.
size_t share(const Place& place, const MemoryView& whole, const ArgumentName& name) {
  if (whole.items() % place.ranks != 0)
    throw_value_error(name, fmt::format("has {} items, which {} ranks cannot share evenly",
                                        whole.items(), place.ranks));
  return whole.items() / place.ranks;
}

std::byte* own_block(const Place& place, const MemoryView& whole, size_t items) {
  return whole.data() + place.rank * items * whole.element().bytes();
}

Operation collective(Collective which, const Element& element, size_t items) {
  Operation o;
  o.collective = which;
  o.count = items * element.per_item;
  o.dtype = element.wire;
  return o;
}

}  // namespace

namespace {

// The same names on host memory and on a stream.
template <class Calls>
Status issue_on(Calls&& c, const Operation& o) {
  using Kind = Operation::Kind;
  switch (o.kind) {
    case Kind::send:
      return c.send(o.send, o.count, o.dtype, o.root);
    case Kind::recv:
      return c.recv(o.recv, o.count, o.dtype, o.root);
    case Kind::all_to_all_v:
      return c.all_to_all_v(o.send, o.counts->send, o.counts->send_offsets, o.recv, o.counts->recv,
                            o.counts->recv_offsets, o.dtype);
    default:
      break;
  }
  switch (o.collective) {
    case Collective::all_reduce:
      return c.all_reduce(o.send, o.recv, o.count, o.dtype, o.reduction);
    case Collective::reduce_scatter:
      return c.reduce_scatter(o.send, o.recv, o.count, o.dtype, o.reduction);
    case Collective::all_gather:
      return c.all_gather(o.send, o.recv, o.count, o.dtype);
    case Collective::broadcast:
      return c.broadcast(o.send, o.recv, o.count, o.dtype, o.root);
    case Collective::reduce:
      return c.reduce(o.send, o.recv, o.count, o.dtype, o.reduction, o.root);
    case Collective::all_to_all:
      return c.all_to_all(o.send, o.recv, o.count, o.dtype);
    case Collective::gather:
      return c.gather(o.send, o.recv, o.count, o.dtype, o.root);
    case Collective::scatter:
      return c.scatter(o.send, o.recv, o.count, o.dtype, o.root);
    default:
      return Status(Code::internal_error, "an operation of no kind");
  }
}

}  // namespace

Status Operation::issue(Communicator& c) const {
  if (on_device) return issue_on(c.on_stream(stream), *this);
  switch (kind) {
    case Kind::register_window: {
      Result<Window> made = c.register_window(recv, count * size_of(dtype));
      if (made) *window = std::move(*made);
      return made.status();
    }
    case Kind::put_signal:
      return c.put_signal(send, count * size_of(dtype), root, *window, offset, signal);
    case Kind::signal:
      return c.signal(root, signal);
    case Kind::wait_signal:
      return c.wait_signals(waits);
    case Kind::collective:
      return collective == Collective::barrier ? c.barrier() : issue_on(c, *this);
    default:
      return issue_on(c, *this);
  }
}

void* stream_from(nb::handle stream) {
  if (stream.is_none()) return nullptr;
  const nb::object handle = nb::module_::import_("tutti._arrays").attr("stream_handle")(stream);
  return reinterpret_cast<void*>(nb::cast<uintptr_t>(handle));
}

void settle_memory(Communicator& communicator, const char* call, void* stream, Prepared* p) {
  const MemoryView& send = p->send;
  const MemoryView& recv = p->recv;
  const bool device = send.on_device() || recv.on_device();
  const auto on_host = [](const MemoryView& v) { return v.data() != nullptr && !v.on_device(); };
  if (device && (on_host(send) || on_host(recv)))
    throw_value_error({call, send.on_device() ? "recvbuf" : "sendbuf"},
                      "is host memory, the other array device memory: one call takes either");
  if (!device) {
    if (stream != nullptr)
      throw_value_error({call, "stream"}, "must be None: host memory has no streams");
    return;
  }
  p->operation.on_device = true;
  if (stream == nullptr) stream = recv.on_device() ? recv.stream() : send.stream();
  p->operation.stream = stream;
  for (const MemoryView* v : {&recv, &send})
    if (v->on_device() && v->stream() != stream)
      throw_if_error(communicator.on_stream(stream).after(v->stream()), communicator.rank());
}

Prepared prepare_all_reduce(const Place& place, nb::handle send, nb::handle recv,
                            const Operator& op) {
  Prepared p;
  const bool in_place = recv.is_none();
  p.send = MemoryView(send, in_place, send_of(place));
  if (!in_place) {
    p.recv = MemoryView(recv, true, recv_of(place));
    check_same_shape(place, p.send, p.recv);
  }
  p.operation = collective(Collective::all_reduce, p.send.element(), p.send.items());
  p.operation.reduction = check_operator(place, p.send.element(), op, send_of(place));
  p.operation.send = p.send.data();
  p.operation.recv = in_place ? p.send.data() : p.recv.data();
  return p;
}

Prepared prepare_reduce(const Place& place, nb::handle send, nb::handle recv, const Operator& op,
                        int64_t root) {
  Prepared p;
  const Rank r = check_rank(place, "root", root);
  const bool at_root = r == place.rank, in_place = recv.is_none();
  p.send = MemoryView(send, at_root && in_place, send_of(place));
  if (at_root && !in_place) {
    p.recv = MemoryView(recv, true, recv_of(place));
    check_same_shape(place, p.send, p.recv);
  }
  p.operation = collective(Collective::reduce, p.send.element(), p.send.items());
  p.operation.reduction = check_operator(place, p.send.element(), op, send_of(place));
  p.operation.root = r;
  p.operation.send = p.send.data();
  if (at_root) p.operation.recv = in_place ? p.send.data() : p.recv.data();
  return p;
}

Prepared prepare_broadcast(const Place& place, nb::handle send, nb::handle recv, int64_t root) {
  Prepared p;
  const Rank r = check_rank(place, "root", root);
  const bool at_root = r == place.rank, in_place = recv.is_none();
  if (at_root || in_place) p.send = MemoryView(send, !at_root, send_of(place));
  if (!in_place) {
    p.recv = MemoryView(recv, true, recv_of(place));
    if (at_root) check_same_shape(place, p.send, p.recv);
  }
  const MemoryView& shape = in_place ? p.send : p.recv;
  p.operation = collective(Collective::broadcast, shape.element(), shape.items());
  p.operation.root = r;
  p.operation.send = at_root ? p.send.data() : shape.data();
  p.operation.recv = shape.data();
  return p;
}

Prepared prepare_all_gather(const Place& place, nb::handle send, nb::handle recv) {
  Prepared p;
  p.recv = MemoryView(recv, true, recv_of(place));
  const size_t items = share(place, p.recv, recv_of(place));
  if (!send.is_none()) {
    p.send = MemoryView(send, false, send_of(place));
    check_same_dtype(place, p.send, p.recv);
    check_blocks(place, p.recv, recv_of(place), p.send);
  }
  p.operation = collective(Collective::all_gather, p.recv.element(), items);
  p.operation.send = send.is_none() ? own_block(place, p.recv, items) : p.send.data();
  p.operation.recv = p.recv.data();
  return p;
}

Prepared prepare_reduce_scatter(const Place& place, nb::handle send, nb::handle recv,
                                const Operator& op) {
  Prepared p;
  const bool in_place = recv.is_none();
  p.send = MemoryView(send, in_place, send_of(place));
  const size_t items = share(place, p.send, send_of(place));
  if (!in_place) {
    p.recv = MemoryView(recv, true, recv_of(place));
    check_same_dtype(place, p.send, p.recv);
    check_blocks(place, p.send, send_of(place), p.recv);
  }
  p.operation = collective(Collective::reduce_scatter, p.send.element(), items);
  p.operation.reduction = check_operator(place, p.send.element(), op, send_of(place));
  p.operation.send = p.send.data();
  p.operation.recv = in_place ? own_block(place, p.send, items) : p.recv.data();
  return p;
}

Prepared prepare_all_to_all(const Place& place, nb::handle send, nb::handle recv) {
  Prepared p;
  const bool in_place = recv.is_none();
  p.send = MemoryView(send, in_place, send_of(place));
  const size_t items = share(place, p.send, send_of(place));
  if (!in_place) {
    p.recv = MemoryView(recv, true, recv_of(place));
    check_same_shape(place, p.send, p.recv);
  }
  p.operation = collective(Collective::all_to_all, p.send.element(), items);
  p.operation.send = p.send.data();
  p.operation.recv = in_place ? p.send.data() : p.recv.data();
  return p;
}

namespace {

// Checks one direction of all_to_all_v and turns items into wire elements. Empty offsets: blocks
// lie one after the other.
void check_counts(const Place& place, const MemoryView& view, const ArgumentName& buffer,
                  const char* counts_name, const std::vector<int64_t>& counts,
                  const char* offsets_name, std::vector<int64_t> offsets,
                  std::vector<size_t>* counts_out, std::vector<size_t>* offsets_out) {
  if (counts.size() != place.ranks)
    throw_value_error({place.call, counts_name},
                      fmt::format("has {} entries for {} ranks", counts.size(), place.ranks));
  if (offsets.empty()) {
    offsets.resize(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), int64_t{0});
  }
  if (offsets.size() != place.ranks)
    throw_value_error({place.call, offsets_name},
                      fmt::format("has {} entries for {} ranks", offsets.size(), place.ranks));
  const auto items = static_cast<int64_t>(view.items());
  for (size_t p = 0; p < counts.size(); ++p) {
    if (counts[p] < 0 || offsets[p] < 0 || offsets[p] > items || counts[p] > items - offsets[p])
      throw_value_error(buffer, fmt::format("has {} items, but rank {}'s block is {} items from {}",
                                            items, p, counts[p], offsets[p]));
    counts_out->push_back(static_cast<size_t>(counts[p]) * view.element().per_item);
    offsets_out->push_back(static_cast<size_t>(offsets[p]) * view.element().per_item);
  }
}

}  // namespace

Prepared prepare_all_to_all_v(const Place& place, nb::handle send, std::vector<int64_t> send_counts,
                              nb::handle recv, std::vector<int64_t> recv_counts,
                              std::vector<int64_t> send_offsets,
                              std::vector<int64_t> recv_offsets) {
  Prepared p;
  p.send = MemoryView(send, false, send_of(place));
  p.recv = MemoryView(recv, true, recv_of(place));
  check_same_dtype(place, p.send, p.recv);
  auto counts = std::make_shared<Operation::Counts>();
  check_counts(place, p.send, send_of(place), "sendcounts", send_counts, "senddispls",
               std::move(send_offsets), &counts->send, &counts->send_offsets);
  check_counts(place, p.recv, recv_of(place), "recvcounts", recv_counts, "recvdispls",
               std::move(recv_offsets), &counts->recv, &counts->recv_offsets);
  if (counts->send[place.rank] != counts->recv[place.rank])
    throw_value_error({place.call, "recvcounts"},
                      fmt::format("has {} items from this rank to itself, but sendcounts has {}",
                                  recv_counts[place.rank], send_counts[place.rank]));
  p.operation.kind = Operation::Kind::all_to_all_v;
  p.operation.dtype = p.send.element().wire;
  p.operation.send = p.send.data();
  p.operation.recv = p.recv.data();
  p.operation.counts = std::move(counts);
  return p;
}

Prepared prepare_gather(const Place& place, nb::handle send, nb::handle recv, int64_t root) {
  const Rank r = check_rank(place, "root", root);
  if (r == place.rank) {
    Prepared p = prepare_all_gather(place, send, recv);
    p.operation.collective = Collective::gather;
    p.operation.root = r;
    return p;
  }
  Prepared p;
  p.send = MemoryView(send, false, send_of(place));
  p.operation = collective(Collective::gather, p.send.element(), p.send.items());
  p.operation.root = r;
  p.operation.send = p.send.data();
  return p;
}

Prepared prepare_scatter(const Place& place, nb::handle send, nb::handle recv, int64_t root) {
  Prepared p;
  const Rank r = check_rank(place, "root", root);
  const bool at_root = r == place.rank, in_place = at_root && recv.is_none();
  if (at_root) p.send = MemoryView(send, in_place, send_of(place));
  if (!in_place) p.recv = MemoryView(recv, true, recv_of(place));
  if (at_root && !in_place) {
    check_same_dtype(place, p.send, p.recv);
    check_blocks(place, p.send, send_of(place), p.recv);
  }
  const size_t items = at_root ? share(place, p.send, send_of(place)) : p.recv.items();
  p.operation = collective(Collective::scatter, (in_place ? p.send : p.recv).element(), items);
  p.operation.root = r;
  p.operation.send = p.send.data();
  p.operation.recv = in_place ? own_block(place, p.send, items) : p.recv.data();
  return p;
}

namespace {

// A send or a receive of what `view` shows.
Operation transfer(Operation::Kind kind, const MemoryView& view, Rank peer) {
  Operation o = collective(Collective::send_recv, view.element(), view.items());
  o.kind = kind;
  o.root = peer;
  return o;
}

}  // namespace

Prepared prepare_send(const Place& place, nb::handle send, int64_t peer) {
  Prepared p;
  const Rank r = check_rank(place, "peer", peer);
  p.send = MemoryView(send, false, send_of(place));
  p.operation = transfer(Operation::Kind::send, p.send, r);
  p.operation.send = p.send.data();
  return p;
}

Prepared prepare_recv(const Place& place, nb::handle recv, int64_t peer) {
  Prepared p;
  const Rank r = check_rank(place, "peer", peer);
  p.recv = MemoryView(recv, true, recv_of(place));
  p.operation = transfer(Operation::Kind::recv, p.recv, r);
  p.operation.recv = p.recv.data();
  return p;
}

// --- one-sided

void RegisteredWindow::close() {
  if (communicator == nullptr) return;
  if (*window) {
    nb::gil_scoped_release without_gil;
    static_cast<void>(communicator->deregister_window(*window));
  }
  communicator.reset();
  view = MemoryView();
}

namespace {

// Which signal of the library a context and an index are.
uint64_t signal_number(const Place& place, int64_t index, int64_t context) {
  constexpr int64_t k_most = std::numeric_limits<int32_t>::max();
  if (index < 0 || index > k_most)
    throw_value_error({place.call, "signal_index"}, fmt::format("is {}", index));
  if (context < 0 || context > k_most)
    throw_value_error({place.call, "context"}, fmt::format("is {}", context));
  return static_cast<uint64_t>(context) << 32 | static_cast<uint64_t>(index);
}

void check_flags(const Place& place, int64_t flags) {
  if (flags != 0) throw_value_error({place.call, "flags"}, fmt::format("is {}, not 0", flags));
}

}  // namespace

namespace {

void check_on_host(const MemoryView& view, const ArgumentName& name) {
  if (view.on_device())
    throw_status(Status(Code::unsupported,
                        fmt::format("{}: {} is device memory; one-sided calls take host memory",
                                    name.call, name.argument)));
}

}  // namespace

Prepared prepare_register_window(const Place& place, nb::handle buffer, RegisteredWindow* window) {
  Prepared p;
  const ArgumentName name{place.call, "buffer"};
  window->view = MemoryView(buffer, true, name);
  check_on_host(window->view, name);
  p.recv = MemoryView(buffer, true, name);  // until it is registered
  if (window->view.items() == 0) throw_value_error(name, "has no items");
  p.operation = transfer(Operation::Kind::register_window, window->view, 0);
  p.operation.recv = window->view.data();
  p.operation.window = window->window;
  return p;
}

Prepared prepare_put_signal(const Place& place, nb::handle local_buffer, int64_t peer,
                            const RegisteredWindow& window, int64_t offset, int64_t signal_index,
                            int64_t context, int64_t flags) {
  Prepared p;
  const Rank r = check_rank(place, "peer", peer);
  check_flags(place, flags);
  if (window.communicator == nullptr) throw_value_error({place.call, "peer_window"}, "was closed");
  p.send = MemoryView(local_buffer, false, {place.call, "local_buffer"});
  check_on_host(p.send, {place.call, "local_buffer"});
  const size_t item = p.send.element().bytes();
  if (offset < 0 || static_cast<uint64_t>(offset) > std::numeric_limits<size_t>::max() / 2 / item)
    throw_value_error({place.call, "peer_window_offset"}, fmt::format("is {}", offset));
  p.operation = transfer(Operation::Kind::put_signal, p.send, r);
  p.operation.send = p.send.data();
  p.operation.window = window.window;
  p.operation.offset = static_cast<size_t>(offset) * item;
  p.operation.signal = signal_number(place, signal_index, context);
  return p;
}

Prepared prepare_signal(const Place& place, int64_t peer, int64_t signal_index, int64_t context,
                        int64_t flags) {
  Prepared p;
  check_flags(place, flags);
  p.operation.kind = Operation::Kind::signal;
  p.operation.root = check_rank(place, "peer", peer);
  p.operation.signal = signal_number(place, signal_index, context);
  return p;
}

Prepared prepare_wait_signal(const Place& place, const std::vector<WaitSignalDesc>& descs) {
  Prepared p;
  p.operation.kind = Operation::Kind::wait_signal;
  for (const WaitSignalDesc& d : descs) {
    if (d.op_count < 0)
      throw_value_error({place.call, "op_count"}, fmt::format("is {}", d.op_count));
    p.operation.waits.push_back({check_rank(place, "peer", d.peer),
                                 static_cast<uint64_t>(d.op_count),
                                 signal_number(place, d.signal_index, d.context)});
  }
  return p;
}

}  // namespace tutti::python
