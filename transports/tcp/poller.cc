// epoll, with nanosecond timeouts where the kernel has them.
#include "transports/tcp/poller.h"

#include <array>
#include <cerrno>
#include <ctime>

#include "src/base/socket.h"

namespace tutti::tcp {

Result<Poller> Poller::make() {
  Fd fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!fd) return Status(Code::system_error, "cannot make an epoll instance: " + errno_text(errno));
  return Poller(std::move(fd));
}

Status Poller::add(int fd, uint32_t events, Watcher* watcher) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = watcher;
  if (::epoll_ctl(fd_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return Status(Code::system_error, "cannot watch a socket (epoll, see " +
                                        std::string("fs.epoll.max_user_watches): ") +
                                        errno_text(errno));
}

void Poller::modify(int fd, uint32_t events, Watcher* watcher) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = watcher;
  (void)::epoll_ctl(fd_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Poller::remove(int fd) { (void)::epoll_ctl(fd_.get(), EPOLL_CTL_DEL, fd, nullptr); }

int Poller::dispatch(std::chrono::nanoseconds timeout) {
  std::array<epoll_event, 32> events;
  int ready = -1;
  if (timeout > std::chrono::nanoseconds::zero() && has_nanoseconds_) {
    const auto count = timeout.count();
    const timespec spec{static_cast<time_t>(count / 1'000'000'000),
                        static_cast<long>(count % 1'000'000'000)};
    ready = ::epoll_pwait2(fd_.get(), events.data(), events.size(), &spec, nullptr);
    if (ready < 0 && errno != EINTR) has_nanoseconds_ = false;
  }
  if (timeout <= std::chrono::nanoseconds::zero() || !has_nanoseconds_) {
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
    ready = ::epoll_wait(fd_.get(), events.data(), events.size(), static_cast<int>(milliseconds));
  }
  for (int i = 0; i < ready; ++i)
    static_cast<Watcher*>(events[i].data.ptr)->on_ready(events[i].events);
  return ready;
}

}  // namespace tutti::tcp
