// Sockets with deadlines; see socket.h.
#include "src/base/socket.h"

#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace tutti {
namespace {

Status system_error(const std::string& what, int error) {
  return Status(Code::system_error, what + ": " + errno_text(error));
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

Status out_of_descriptors(const std::string& what, int error) {
  return system_error(what + " (RLIMIT_NOFILE, see ulimit -n)", error);
}

// The soft limit is a default for programs that use select(); the hard one is what we may use. True
// when it could be raised.
bool raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return false;
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

Result<Fd> open_socket(const Address& for_address) {
  Fd fd(::socket(for_address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd) return fd;
  int error = errno;
  if (error == EMFILE && raise_descriptor_limit()) return open_socket(for_address);
  std::string what = "cannot open a socket for " + for_address.to_string();
  if (error == EMFILE || error == ENFILE) return out_of_descriptors(what, error);
  return system_error(what, error);
}

// A reset is how a peer that died with unread data shows: the same as closed.
Status io_error(int fd, const char* verb, int error) {
  std::string peer = peer_name(fd);
  if (error == ECONNRESET || error == EPIPE) {
    return Status(Code::remote_error, "connection closed by " + peer);
  }
  Code code =
      error == ECONNREFUSED || error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH
          ? Code::remote_error
          : Code::system_error;
  return Status(code, std::string("cannot ") + verb + " " + peer + ": " + errno_text(error));
}

// Runs `move` (read_some or write_some) until `bytes` are through.
template <class Move>
Status move_exactly(int fd, size_t bytes, SocketDeadline deadline, short events, Move move) {
  for (size_t done = 0; done < bytes;) {
    Result<size_t> moved = move(done);
    if (!moved.ok()) {
      std::string progress = std::to_string(done) + " of " + std::to_string(bytes) + " bytes";
      return Status(moved.status().code(), moved.status().message() + " after " + progress);
    }
    done += *moved;
    if (*moved == 0) TUTTI_RETURN_IF_ERROR(wait_for(fd, events, deadline));
  }
  return Status();
}

}  // namespace

std::string errno_text(int error) { return std::generic_category().message(error); }

Result<Fd> listen_on(const Address& address, int backlog, bool reuse) {
  if (!address.valid()) return Status(Code::invalid_argument, "cannot listen: no address");
  if (address.is_any()) {
    return Status(Code::invalid_argument, "refusing to listen on every interface (" +
                                              address.to_string() + "); name one address");
  }
  Result<Fd> fd = open_socket(address);
  if (!fd.ok()) return fd;
  int one = 1;
  if (reuse) ::setsockopt(fd->get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (::bind(fd->get(), address.data(), address.size()) != 0 || ::listen(fd->get(), backlog) != 0) {
    return system_error("cannot listen on " + address.to_string(), errno);
  }
  return fd;
}

Result<Address> local_address(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return system_error("cannot ask for a socket's own address", errno);
  }
  return Address(reinterpret_cast<sockaddr*>(&storage), size);
}

Result<Address> peer_address(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return system_error("cannot ask for a peer's address", errno);
  }
  return Address(reinterpret_cast<sockaddr*>(&storage), size);
}

std::string peer_name(int fd) {
  Result<Address> address = peer_address(fd);
  return address.ok() && address->valid() ? address->to_string() : "an unknown peer";
}

Result<Fd> connect_start(const Address& to, const Address* from) {
  if (!to.valid()) return Status(Code::invalid_argument, "cannot connect: no address");
  Result<Fd> fd = open_socket(to);
  if (!fd.ok()) return fd;
  if (from != nullptr) {
    Address source = from->with_port(0);
    if (::bind(fd->get(), source.data(), source.size()) != 0) {
      return system_error("cannot use local address " + source.to_string(), errno);
    }
  }
  int result = ::connect(fd->get(), to.data(), to.size());
  if (result != 0 && errno != EINPROGRESS && errno != EINTR) {
    int error = errno;
    return Status(
        error == EADDRNOTAVAIL || error == EAGAIN ? Code::system_error : Code::remote_error,
        "cannot connect to " + to.to_string() + ": " + errno_text(error));
  }
  return fd;
}

Status connect_error(int fd, const Address& to) {
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error == 0) {
    sockaddr_storage peer{};
    socklen_t length = sizeof peer;
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) == 0) return Status();
    if (errno == ENOTCONN) return Status(Code::in_progress, "connecting to " + to.to_string());
    error = errno;
  }
  return Status(Code::remote_error,
                "cannot connect to " + to.to_string() + ": " + errno_text(error));
}

Result<Fd> connect_to(const Address& to, SocketDeadline deadline, const Address* from) {
  Result<Fd> fd = connect_start(to, from);
  if (!fd.ok()) return fd;
  Status ready = wait_for(fd->get(), POLLOUT, deadline);
  if (!ready.ok()) {
    return Status(ready.code(), "cannot connect to " + to.to_string() + " in time");
  }
  TUTTI_RETURN_IF_ERROR(connect_error(fd->get(), to));
  return fd;
}

Result<std::optional<Accepted>> try_accept(int listener) {
  for (;;) {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    Fd fd(::accept4(listener, reinterpret_cast<sockaddr*>(&storage), &size,
                    SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      Address peer(reinterpret_cast<sockaddr*>(&storage), size);
      return std::optional<Accepted>(Accepted{std::move(fd), peer});
    }
    int error = errno;
    if (would_block(error)) return std::optional<Accepted>();
    if (error == EMFILE && raise_descriptor_limit()) continue;
    if (error == EMFILE || error == ENFILE) {
      return out_of_descriptors("cannot accept a connection", error);
    }
    // Errors of a connection that died in the queue (accept(2)); the listener itself is fine.
    bool of_one_connection = error == EINTR || error == ECONNABORTED || error == EPROTO ||
                             error == ENETDOWN || error == EHOSTDOWN || error == EHOSTUNREACH ||
                             error == ENETUNREACH || error == ENONET || error == EOPNOTSUPP;
    if (!of_one_connection) return system_error("cannot accept a connection", error);
  }
}

Result<Accepted> accept_from(int listener, SocketDeadline deadline) {
  for (;;) {
    Result<std::optional<Accepted>> accepted = try_accept(listener);
    if (!accepted.ok()) return accepted.status();
    if (accepted->has_value()) return std::move(**accepted);
    TUTTI_RETURN_IF_ERROR(wait_for(listener, POLLIN, deadline));
  }
}

Result<size_t> read_some(int fd, void* data, size_t bytes) {
  for (;;) {
    ssize_t got = ::recv(fd, data, bytes, 0);
    if (got > 0) return static_cast<size_t>(got);
    if (got == 0 && bytes == 0) return size_t{0};
    if (got == 0) return Status(Code::remote_error, "connection closed by " + peer_name(fd));
    if (would_block(errno)) return size_t{0};
    if (errno != EINTR) return io_error(fd, "read from", errno);
  }
}

Result<size_t> write_some(int fd, const void* data, size_t bytes) {
  for (;;) {
    ssize_t put = ::send(fd, data, bytes, MSG_NOSIGNAL);
    if (put >= 0) return static_cast<size_t>(put);
    if (would_block(errno)) return size_t{0};
    if (errno != EINTR) return io_error(fd, "write to", errno);
  }
}

Status read_exactly(int fd, void* data, size_t bytes, SocketDeadline deadline) {
  return move_exactly(fd, bytes, deadline, POLLIN, [&](size_t done) {
    return read_some(fd, static_cast<char*>(data) + done, bytes - done);
  });
}

Status write_exactly(int fd, const void* data, size_t bytes, SocketDeadline deadline) {
  return move_exactly(fd, bytes, deadline, POLLOUT, [&](size_t done) {
    return write_some(fd, static_cast<const char*>(data) + done, bytes - done);
  });
}

int poll_until(pollfd* entries, size_t count, SocketDeadline deadline) {
  for (;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - SocketClock::now()).count();
    int timeout = static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30));
    int ready = ::poll(entries, count, timeout);
    if (ready >= 0 || errno != EINTR) return ready;
  }
}

Status wait_for(int fd, short events, SocketDeadline deadline) {
  pollfd entry{fd, events, 0};
  int ready = poll_until(&entry, 1, deadline);
  if (ready > 0) return Status();
  if (ready < 0) return system_error("cannot poll a socket", errno);
  return Status(Code::timeout, "timed out waiting for " + peer_name(fd));
}

void set_no_delay(int fd) {
  int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

}  // namespace tutti
