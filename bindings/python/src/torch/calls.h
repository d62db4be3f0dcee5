// Calls: what the body of an operation calls: a communicator's collectives, on host memory or
// enqueued on a stream.
#pragma once

#include <optional>
#include <span>

#include "tutti/communicator.h"

namespace tutti::torch_backend {

class Calls {
 public:
  explicit Calls(Communicator& communicator) : communicator_(communicator) {}
  // `stream`: a cudaStream_t.
  Calls(Communicator& communicator, void* stream)
      : communicator_(communicator), on_stream_(communicator.on_stream(stream)) {}

  Rank rank() const { return communicator_.rank(); }
  uint32_t ranks() const { return communicator_.ranks(); }

  Status all_reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op) {
    return here([&](auto& c) { return c.all_reduce(send, recv, count, dtype, op); });
  }
  Status reduce_scatter(const void* send, void* recv, size_t count, DType dtype, Reduction op) {
    return here([&](auto& c) { return c.reduce_scatter(send, recv, count, dtype, op); });
  }
  Status all_gather(const void* send, void* recv, size_t count, DType dtype) {
    return here([&](auto& c) { return c.all_gather(send, recv, count, dtype); });
  }
  Status broadcast(const void* send, void* recv, size_t count, DType dtype, Rank root) {
    return here([&](auto& c) { return c.broadcast(send, recv, count, dtype, root); });
  }
  Status reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op, Rank root) {
    return here([&](auto& c) { return c.reduce(send, recv, count, dtype, op, root); });
  }
  Status gather(const void* send, void* recv, size_t count, DType dtype, Rank root) {
    return here([&](auto& c) { return c.gather(send, recv, count, dtype, root); });
  }
  Status scatter(const void* send, void* recv, size_t count, DType dtype, Rank root) {
    return here([&](auto& c) { return c.scatter(send, recv, count, dtype, root); });
  }
  Status all_to_all_v(const void* send, std::span<const size_t> send_counts,
                      std::span<const size_t> send_offsets, void* recv,
                      std::span<const size_t> recv_counts, std::span<const size_t> recv_offsets,
                      DType dtype) {
    return here([&](auto& c) {
      return c.all_to_all_v(send, send_counts, send_offsets, recv, recv_counts, recv_offsets,
                            dtype);
    });
  }
  Status send(const void* buffer, size_t count, DType dtype, Rank peer) {
    return here([&](auto& c) { return c.send(buffer, count, dtype, peer); });
  }
  Status recv(void* buffer, size_t count, DType dtype, Rank peer) {
    return here([&](auto& c) { return c.recv(buffer, count, dtype, peer); });
  }
  Status group_start() { return communicator_.group_start(); }
  Status group_end() { return communicator_.group_end(); }
  // Of the host; streams have no barrier.
  Status barrier() { return communicator_.barrier(); }

 private:
  template <class Call>
  Status here(Call&& call) {
    return on_stream_ ? call(*on_stream_) : call(communicator_);
  }

  Communicator& communicator_;
  std::optional<OnStream> on_stream_;
};

}  // namespace tutti::torch_backend
