// TCP sockets with deadlines: every call here is bounded in time, safe against EINTR and SIGPIPE,
// and every descriptor is non-blocking and close-on-exec. Messages name the address. When
// descriptors run out, the process's soft RLIMIT_NOFILE is raised to the hard one before that is an
// error.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "src/base/address.h"
#include "src/base/fd.h"
#include "tutti/status.h"

namespace tutti {

using SocketClock = std::chrono::steady_clock;
using SocketDeadline = SocketClock::time_point;

struct Accepted {
  Fd fd;
  Address peer;
};

// Listens on exactly `address` (port 0: any free one; ask local_address()). Errors:
// invalid_argument for 0.0.0.0 and [::], system_error with address and reason ("in use by ...").
// `reuse` sets SO_REUSEADDR: only for ports that must be the same from run to run.
Result<Fd> listen_on(const Address& address, int backlog = 4096, bool reuse = false);
Result<Address> local_address(int fd);
Result<Address> peer_address(int fd);

// A connection in progress: poll for POLLOUT, then connect_error(). Sending before it is
// established says EAGAIN, so state machines need not treat connecting as a state of its own.
// `from`: bind to this local address first (its port is ignored).
Result<Fd> connect_start(const Address& to, const Address* from = nullptr);
// ok: established. in_progress: not yet. Else why not, with the address.
Status connect_error(int fd, const Address& to);
Result<Fd> connect_to(const Address& to, SocketDeadline deadline, const Address* from = nullptr);

// Not a connection when nobody is waiting. Transient errors of single connections are swallowed;
// running out of descriptors is a system_error that says so.
Result<std::optional<Accepted>> try_accept(int listener);
Result<Accepted> accept_from(int listener, SocketDeadline deadline);

// Exactly n bytes. Errors: remote_error "closed by ADDRESS after 12 of 64 bytes", timeout,
// system_error.
Status read_exactly(int fd, void* data, size_t bytes, SocketDeadline deadline);
Status write_exactly(int fd, const void* data, size_t bytes, SocketDeadline deadline);

// Non-blocking parts. Returned: bytes moved (0: would block). Errors as above; end of file is
// remote_error.
Result<size_t> read_some(int fd, void* data, size_t bytes);
Result<size_t> write_some(int fd, const void* data, size_t bytes);

// Blocks until one of `events` (POLLIN, POLLOUT), an error or the deadline: then Code::timeout.
Status wait_for(int fd, short events, SocketDeadline deadline);
// poll() that restarts after signals. Milliseconds are rounded up. Number of ready entries.
int poll_until(pollfd* entries, size_t count, SocketDeadline deadline);

// Disables Nagle's algorithm; for control and small messages.
void set_no_delay(int fd);
// "10.0.0.1:5000", or "an unknown peer" where there is none.
std::string peer_name(int fd);
// "No such file or directory", thread-safe.
std::string errno_text(int error);

}  // namespace tutti
