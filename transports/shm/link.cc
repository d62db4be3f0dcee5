// Link: frames and descriptors over Unix sockets.
#include "transports/shm/link.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "src/base/socket.h"

namespace tutti::shm {
namespace {

socklen_t abstract_address(const std::string& name, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  // sun_path[0] == 0 makes it abstract: no file, nothing to clean up.
  const std::string path = "tutti-" + name;
  std::memcpy(address->sun_path + 1, path.data(), path.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + path.size());
}

ucred credentials(int socket) {
  ucred who{};
  socklen_t length = sizeof who;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) who = {0, ~0u, ~0u};
  return who;
}

}  // namespace

Io send_frame(int socket, const Frame& frame, int descriptor) {
  iovec data{const_cast<Frame*>(&frame), sizeof frame};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  while (true) {
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == static_cast<ssize_t>(sizeof frame)) return Io::done;
    if (sent >= 0) return Io::failed;  // half a frame cannot be repaired
    if (errno == EINTR) continue;
    const bool full = errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS;
    return full ? Io::again : Io::failed;
  }
}

Io receive_frame(int socket, Frame* frame, Fd* descriptor) {
  iovec data{frame, sizeof *frame};
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got = 0;
  do {
    got = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno == EAGAIN ? Io::again : Io::failed;
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
      descriptor->reset(fd);  // only one is expected; more are closed
    }
  }
  return got == static_cast<ssize_t>(sizeof *frame) ? Io::done : Io::failed;
}

int peer_pid(int socket) { return credentials(socket).pid; }
uint32_t peer_uid(int socket) { return credentials(socket).uid; }

Result<Fd> listen_abstract(const std::string& name) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  const socklen_t length = abstract_address(name, &address);
  if (!fd || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::listen(fd.get(), 4096) != 0) {
    return Status(Code::system_error,
                  "cannot listen on an abstract Unix socket: " + errno_text(errno));
  }
  return fd;
}

Io connect_abstract(const std::string& name, Fd* socket, int* error) {
  if (!*socket) socket->reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  const socklen_t length = abstract_address(name, &address);
  if (*socket && ::connect(socket->get(), reinterpret_cast<sockaddr*>(&address), length) == 0) {
    return Io::done;
  }
  *error = errno;
  return errno == EAGAIN || errno == EINTR ? Io::again : Io::failed;
}

}  // namespace tutti::shm
