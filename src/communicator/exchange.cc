// The unique id through PMI-1 or an abstract Unix socket; see exchange.h.
#include "src/communicator/exchange.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <thread>

#include "src/communicator/bootstrap/id.h"

namespace tutti {
namespace {

using std::chrono::milliseconds;

// Longer than any line of the protocol (values have at most 1024 bytes).
constexpr size_t k_max_line = 4096;

// The value of " key=" in a line of the protocol, up to the next blank.
std::string field(const std::string& line, const std::string& key) {
  std::string padded = " " + line;
  size_t at = padded.find(" " + key + "=");
  if (at == std::string::npos) return {};
  at += key.size() + 2;
  return padded.substr(at, padded.find_first_of(" \n", at) - at);
}

Status pmi_error(const std::string& what) {
  return Status(Code::remote_error, "process manager (PMI_FD): " + what);
}

struct UnixName {
  sockaddr_un address{};
  socklen_t size = 0;
};

UnixName abstract_name(const std::string& job) {
  UnixName name;
  std::string text = "tutti-" + std::to_string(::geteuid()) + "-" + job;
  text.resize(std::min(text.size(), sizeof name.address.sun_path - 1));
  name.address.sun_family = AF_UNIX;
  std::memcpy(name.address.sun_path + 1, text.data(), text.size());
  name.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  return name;
}

Result<Fd> unix_socket() {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd) return fd;
  return Status(Code::system_error, "cannot open a Unix socket: " + errno_text(errno));
}

bool same_user(int fd) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 &&
         credentials.uid == ::geteuid();
}

// Serves every other rank once. Other users are hung up on.
Status hand_out(const UnixName& name, uint32_t ranks, const UniqueId& id, SocketDeadline deadline) {
  Result<Fd> listener = unix_socket();
  if (!listener.ok()) return listener.status();
  while (::bind(listener->get(), reinterpret_cast<const sockaddr*>(&name.address), name.size) !=
         0) {
    if (errno != EADDRINUSE || SocketClock::now() > deadline) {
      return Status(
          Code::system_error,
          "cannot hand over the unique id on an abstract Unix socket: " + errno_text(errno));
    }
    std::this_thread::sleep_for(milliseconds(5));
  }
  if (::listen(listener->get(), static_cast<int>(ranks)) != 0) {
    return Status(Code::system_error, "cannot listen on a Unix socket: " + errno_text(errno));
  }
  for (uint32_t served = 1; served < ranks;) {
    Status ready = wait_for(listener->get(), POLLIN, deadline);
    if (!ready.ok()) {
      return Status(ready.code(), "only " + std::to_string(served) + " of " +
                                      std::to_string(ranks) +
                                      " ranks of this host came for the unique id in time");
    }
    Fd client(::accept4(listener->get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!client || !same_user(client.get())) continue;
    if (write_exactly(client.get(), id.bytes.data(), id.bytes.size(), deadline).ok()) ++served;
  }
  return Status();
}

Result<UniqueId> fetch(const UnixName& name, SocketDeadline deadline) {
  for (;;) {
    Result<Fd> fd = unix_socket();
    if (!fd.ok()) return fd.status();
    UniqueId id;
    if (::connect(fd->get(), reinterpret_cast<const sockaddr*>(&name.address), name.size) == 0) {
      if (!same_user(fd->get())) {
        return Status(Code::remote_error, "another user serves this job's Unix socket");
      }
      if (read_exactly(fd->get(), id.bytes.data(), id.bytes.size(), deadline).ok()) return id;
    }
    if (SocketClock::now() > deadline) {
      return Status(Code::timeout, "rank 0 did not hand over the unique id in time");
    }
    std::this_thread::sleep_for(milliseconds(5));
  }
}

}  // namespace

Result<std::string> PmiClient::read_line() {
  for (;;) {
    size_t newline = pending_.find('\n');
    if (newline != std::string::npos) {
      std::string line = pending_.substr(0, newline);
      pending_.erase(0, newline + 1);
      return line;
    }
    if (pending_.size() > k_max_line) return pmi_error("an endless line");
    Status ready = wait_for(fd_, POLLIN, deadline_);
    if (!ready.ok()) return Status(ready.code(), "process manager (PMI_FD): no answer in time");
    char buffer[1024];
    ssize_t got = ::read(fd_, buffer, sizeof buffer);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) return pmi_error(got == 0 ? "closed" : errno_text(errno));
    pending_.append(buffer, static_cast<size_t>(got));
  }
}

Result<std::string> PmiClient::ask(const std::string& line, const std::string& command) {
  std::string text = line + "\n";
  for (size_t done = 0; done < text.size();) {
    ssize_t put = ::send(fd_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EAGAIN) {
      TUTTI_RETURN_IF_ERROR(wait_for(fd_, POLLOUT, deadline_));
      continue;
    }
    if (put < 0) return pmi_error(errno_text(errno));
    done += static_cast<size_t>(put);
  }
  Result<std::string> answer = read_line();
  if (!answer.ok()) return answer;
  std::string rc = field(*answer, "rc");
  if (field(*answer, "cmd") != command || (!rc.empty() && rc != "0")) {
    return pmi_error("\"" + line.substr(0, 40) + "\" was answered by \"" + answer->substr(0, 200) +
                     "\"");
  }
  return answer;
}

Status PmiClient::init() {
  Result<std::string> greeted = ask("cmd=init pmi_version=1 pmi_subversion=1", "response_to_init");
  if (!greeted.ok()) {
    return greeted.status().with_context(
        "the process manager's key-value space is closed; it serves one from_environment() and no "
        "MPI beside it: create an id on rank 0 and broadcast it instead");
  }
  Result<std::string> name = ask("cmd=get_my_kvsname", "my_kvsname");
  if (!name.ok()) return name.status();
  space_ = field(*name, "kvsname");
  return space_.empty() ? pmi_error("no key-value space") : Status();
}

Status PmiClient::put(const std::string& key, const std::string& value) {
  return ask("cmd=put kvsname=" + space_ + " key=" + key + " value=" + value, "put_result")
      .status();
}

Result<std::string> PmiClient::get(const std::string& key) {
  Result<std::string> answer = ask("cmd=get kvsname=" + space_ + " key=" + key, "get_result");
  return answer.ok() ? Result<std::string>(field(*answer, "value")) : answer;
}

Status PmiClient::barrier() { return ask("cmd=barrier_in", "barrier_out").status(); }
Status PmiClient::finalize() { return ask("cmd=finalize", "finalize_ack").status(); }

Result<UniqueId> exchange_by_pmi(int fd, Rank rank, const UniqueId& mine, SocketDeadline deadline) {
  PmiClient pmi(fd, deadline);
  TUTTI_RETURN_IF_ERROR(pmi.init());
  if (rank == 0) TUTTI_RETURN_IF_ERROR(pmi.put("tutti-id", id_to_hex(mine)));
  TUTTI_RETURN_IF_ERROR(pmi.barrier());
  Result<std::string> hex = pmi.get("tutti-id");
  if (!hex.ok()) return hex.status();
  TUTTI_RETURN_IF_ERROR(pmi.finalize());
  return id_from_hex(*hex);
}

Result<UniqueId> exchange_by_socket(const std::string& job, Rank rank, uint32_t ranks,
                                    const UniqueId& mine, SocketDeadline deadline) {
  UnixName name = abstract_name(job);
  if (rank != 0) return fetch(name, deadline);
  TUTTI_RETURN_IF_ERROR(hand_out(name, ranks, mine, deadline));
  return mine;
}

}  // namespace tutti
