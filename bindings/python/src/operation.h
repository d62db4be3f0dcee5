// Operation: one call on a communicator with its arguments checked, ready to be issued now, on a
// progress thread, or at the end of a group.
#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "bindings/python/src/memory_view.h"
#include "tutti/communicator.h"

namespace tutti::python {

// The operator that multiplies this rank's input by its own factor before the sum.
struct PreMulSum {
  double factor;
};
using Operator = std::variant<ReduceOp, PreMulSum>;

// Memory that every rank offers the others, from register_window(): the view keeps this rank's
// alive. Ends with close(), or with its last user. Made and destroyed with the GIL.
struct RegisteredWindow {
  MemoryView view;
  std::shared_ptr<Communicator> communicator;
  std::shared_ptr<Window> window = std::make_shared<Window>();  // filled when the call runs

  RegisteredWindow() = default;
  RegisteredWindow(RegisteredWindow&&) = default;
  RegisteredWindow& operator=(RegisteredWindow&&) = delete;
  ~RegisteredWindow() { close(); }
  bool valid() const { return communicator != nullptr && static_cast<bool>(*window); }
  void close();
};

// What wait_signal() waits for.
struct WaitSignalDesc {
  int64_t peer = 0, op_count = 1, signal_index = 0, context = 0;
};

struct Operation {
  enum class Kind : unsigned char {
    collective,
    all_to_all_v,
    send,
    recv,
    register_window,
    put_signal,
    signal,
    wait_signal,
  };
  struct Counts {
    std::vector<size_t> send, send_offsets, recv, recv_offsets;
  };

  Kind kind = Kind::collective;
  Collective collective = Collective::barrier;
  const void* send = nullptr;
  void* recv = nullptr;
  size_t count = 0;
  DType dtype = DType::uint8;
  Reduction reduction;
  Rank root = 0;  // or peer
  std::shared_ptr<const Counts> counts;
  bool on_device = false;
  void* stream = nullptr;  // where it is enqueued, then

  // One-sided: run after the others of a group, in their order.
  bool one_sided() const { return kind >= Kind::register_window; }
  std::shared_ptr<Window> window;
  size_t offset = 0;  // in bytes
  uint64_t signal = 0;
  std::vector<SignalCount> waits;

  Status issue(Communicator& communicator) const;
};

// An operation and what holds its memory. Made and destroyed with the GIL.
struct Prepared {
  Operation operation;
  MemoryView send, recv;
};

// Host or device memory, and on which stream: the given one, or that of the arrays. The stream
// comes after those that the arrays were made on. Throws ValueError where one call has both kinds
// of memory, or a stream for host memory.
void settle_memory(Communicator& communicator, const char* call, void* stream, Prepared* p);
// The handle of a stream object; null for None.
void* stream_from(nb::handle stream);

// Where a call is made: its name, and the communicator's shape.
struct Place {
  const char* call;
  Rank rank;
  uint32_t ranks;
  void* stream = nullptr;  // that it was given (cudaStream_t); null: none
};

// Each checks types, sizes and shapes, and infers count and dtype. A `recv` of None means in place
// (for all_gather and gather it is `send` that may be None: this rank's block of recv).
Prepared prepare_all_reduce(const Place&, nb::handle send, nb::handle recv, const Operator& op);
Prepared prepare_reduce(const Place&, nb::handle send, nb::handle recv, const Operator& op,
                        int64_t root);
Prepared prepare_broadcast(const Place&, nb::handle send, nb::handle recv, int64_t root);
Prepared prepare_all_gather(const Place&, nb::handle send, nb::handle recv);
Prepared prepare_reduce_scatter(const Place&, nb::handle send, nb::handle recv, const Operator& op);
Prepared prepare_all_to_all(const Place&, nb::handle send, nb::handle recv);
Prepared prepare_all_to_all_v(const Place&, nb::handle send, std::vector<int64_t> send_counts,
                              nb::handle recv, std::vector<int64_t> recv_counts,
                              std::vector<int64_t> send_offsets, std::vector<int64_t> recv_offsets);
Prepared prepare_gather(const Place&, nb::handle send, nb::handle recv, int64_t root);
Prepared prepare_scatter(const Place&, nb::handle send, nb::handle recv, int64_t root);
Prepared prepare_send(const Place&, nb::handle send, int64_t peer);
Prepared prepare_recv(const Place&, nb::handle recv, int64_t peer);
// `window` gets its view and where the result will be.
Prepared prepare_register_window(const Place&, nb::handle buffer, RegisteredWindow* window);
Prepared prepare_put_signal(const Place&, nb::handle local_buffer, int64_t peer,
                            const RegisteredWindow& window, int64_t offset, int64_t signal_index,
                            int64_t context, int64_t flags);
Prepared prepare_signal(const Place&, int64_t peer, int64_t signal_index, int64_t context,
                        int64_t flags);
Prepared prepare_wait_signal(const Place&, const std::vector<WaitSignalDesc>& descs);

}  // namespace tutti::python
