// Link: the Unix socket between two ranks of a host, after both have proven the key. It passes
// descriptors, and its end of file is how the death of a peer shows.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "src/base/fd.h"
#include "transports/transport.h"
#include "tutti/status.h"

namespace tutti::shm {

enum class FrameKind : uint32_t {
  arena = 1,    // with the descriptor of the sender's arena
  verdict = 2,  // whether the sender can use the receiver's arena and memory
  segment = 3,  // with the descriptor of a mem_alloc segment
  forget = 4,   // a segment was freed
};

// Every frame has this size; a short or foreign one ends the connection.
struct Frame {
  FrameKind kind = FrameKind::arena;
  Rank rank = 0;
  uint64_t token = 0;          // arena: must be found in its control page
  uint64_t probe_address = 0;  // arena: private memory of the sender that holds probe_value
  uint64_t probe_value = 0;
  uint64_t segment = 0;  // segment, forget
  uint64_t bytes = 0;
  uint32_t mapped = 0;      // verdict: the arena could be mapped
  uint32_t process_vm = 0;  // verdict: process_vm_readv and _writev work
  std::array<char, 72> reason{};
};
static_assert(sizeof(Frame) == 128);

// done, again (the socket's buffer is full), or failed (the peer is gone). Never blocks.
Io send_frame(int socket, const Frame& frame, int descriptor = -1);
// done, again (nothing there), or failed (end of file, or not a frame). Never blocks.
Io receive_frame(int socket, Frame* frame, Fd* descriptor);

// The process at the other end, as this process's pid namespace numbers it; 0: not visible here.
int peer_pid(int socket);
uint32_t peer_uid(int socket);

// An abstract Unix socket, listening. Errors: system_error.
Result<Fd> listen_abstract(const std::string& name);
// again: the listener's queue is full; failed: nobody listens, or it is not allowed.
Io connect_abstract(const std::string& name, Fd* socket, int* error);

}  // namespace tutti::shm
