// Poller: one epoll instance and the things that want to hear from it.
#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <cstdint>

#include "src/base/fd.h"
#include "tutti/status.h"

namespace tutti::tcp {

class Watcher {
 public:
  virtual void on_ready(uint32_t events) = 0;  // EPOLLIN, EPOLLOUT, ...

 protected:
  ~Watcher() = default;
};

// Level-triggered. A watcher must be removed before its descriptor is closed (a forked child would
// keep the registration alive) and must outlive the dispatch() in which it is removed.
class Poller {
 public:
  static Result<Poller> make();
  Status add(int fd, uint32_t events, Watcher* watcher);
  void modify(int fd, uint32_t events, Watcher* watcher);
  void remove(int fd);
  // Waits at most `timeout` (0: not at all) and calls the watchers that are ready.
  // Returns how many.
  int dispatch(std::chrono::nanoseconds timeout);

 private:
  explicit Poller(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
  bool has_nanoseconds_ = true;  // epoll_pwait2, Linux 5.11
};

}  // namespace tutti::tcp
