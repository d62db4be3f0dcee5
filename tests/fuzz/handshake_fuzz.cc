// link: tutti_bootstrap
// Fuzzes what a stranger can say before it has proven anything, and the frames after that: the
// handshake as server and as client, and Channel's decoder.
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>

#include "src/base/auth.h"
#include "src/communicator/bootstrap/channel.h"

namespace {

using namespace tutti;

void feed_handshake(Role role, const uint8_t* data, size_t size) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) return;
  Fd mine(ends[0]);
  Fd theirs(ends[1]);
  Key key{};
  Handshake handshake(role, key, Hello(), "fuzz", SocketClock::now() + std::chrono::hours(1));
  // In two pieces, so that partial frames are met as well.
  size_t half = size / 2;
  (void)write_some(theirs.get(), data, half);
  (void)handshake.advance(mine.get());
  (void)write_some(theirs.get(), data + half, size - half);
  theirs.reset();
  // Without the key nobody gets through.
  if (handshake.advance(mine.get()) == AuthState::done) __builtin_trap();
}

void feed_channel(const uint8_t* data, size_t size) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) return;
  Fd theirs(ends[1]);
  Channel channel(Fd(ends[0]), 4096);
  (void)write_some(theirs.get(), data, size);
  theirs.reset();
  (void)channel.receive();
  Frame frame;
  while (channel.pop(&frame)) {
    if (frame.payload.size() > 4096) __builtin_trap();
    (void)decode_status(frame.payload);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 16384) return 0;
  switch (data[0] % 3) {
    case 0:
      feed_handshake(Role::server, data + 1, size - 1);
      break;
    case 1:
      feed_handshake(Role::client, data + 1, size - 1);
      break;
    default:
      feed_channel(data + 1, size - 1);
  }
  return 0;
}
