// Ceilings of this machine, see ceilings.h.
#include "perf/ceilings.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/cpu/kernels.h"
#include "perf/harness.h"

namespace tutti::perf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t k_smallest_copy = 4096;
constexpr size_t k_largest_copy = size_t{256} << 20;
constexpr int k_rounds = 3;  // the best one counts: a ceiling is what the machine can do

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// GB/s of one buffer of `bytes`, each core copying its share, again and again for about 6 ms.
double copy_bandwidth(char* dst, const char* src, size_t bytes, unsigned cores, bool kernel) {
  const size_t share = std::max<size_t>(bytes / cores, 64);
  const auto repeats =
      static_cast<int>(std::clamp<double>(6e-3 * 10e9 / static_cast<double>(bytes), 1.0, 20000.0));
  std::barrier<> gate(static_cast<std::ptrdiff_t>(cores));
  // Each thread reads the clock itself: one that starts late is part of the measurement.
  struct Span {
    Clock::time_point start, end;
  };
  std::vector<std::array<Span, k_rounds>> spans(cores);
  std::vector<std::thread> threads;
  for (unsigned core = 0; core < cores; ++core)
    threads.emplace_back([=, &gate, &spans] {
      char* to = dst + core * share;
      const char* from = src + core * share;
      for (int round = 0; round < k_rounds; ++round) {
        gate.arrive_and_wait();
        spans[core][round].start = Clock::now();
        for (int i = 0; i < repeats; ++i) {
          if (kernel)
            kernels::copy(to, from, share);
          else
            std::memcpy(to, from, share);
          asm volatile("" ::: "memory");  // every copy counts
        }
        spans[core][round].end = Clock::now();
      }
    });
  for (std::thread& thread : threads) thread.join();
  double best = 0;
  for (int round = 0; round < k_rounds; ++round) {
    Span all = spans[0][round];
    for (const auto& of_thread : spans) {
      all.start = std::min(all.start, of_thread[round].start);
      all.end = std::max(all.end, of_thread[round].end);
    }
    const double elapsed = std::chrono::duration<double>(all.end - all.start).count();
    if (elapsed > 0)
      best = std::max(best, static_cast<double>(share) * cores * repeats / elapsed / 1e9);
  }
  return best;
}

void pause_or_yield(unsigned cores) {
  if (cores < 2) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

double flag_latency(unsigned cores) {
  struct alignas(128) Flag {
    std::atomic<uint32_t> value{0};
  };
  const uint32_t trips = cores < 2 ? 500 : 5000;
  Flag ping;
  Flag pong;
  std::thread other([&] {
    for (uint32_t i = 1; i <= trips * k_rounds; ++i) {
      while (ping.value.load(std::memory_order_acquire) != i) pause_or_yield(cores);
      pong.value.store(i, std::memory_order_release);
    }
  });
  double best = 1e9;
  uint32_t i = 0;
  for (int round = 0; round < k_rounds; ++round) {
    const auto start = Clock::now();
    for (uint32_t end = i + trips; i < end;) {
      ping.value.store(++i, std::memory_order_release);
      while (pong.value.load(std::memory_order_acquire) != i) pause_or_yield(cores);
    }
    best = std::min(best, seconds_since(start) / (2.0 * trips) * 1e6);
  }
  other.join();
  return best;
}

struct Loopback {
  int a = -1;
  int b = -1;
  ~Loopback() {
    if (a >= 0) close(a);
    if (b >= 0) close(b);
  }
  bool open() {
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool connected = listener >= 0 && a >= 0 && bind(listener, generic, length) == 0 &&
                           listen(listener, 1) == 0 &&
                           getsockname(listener, generic, &length) == 0 &&
                           connect(a, generic, length) == 0;
    if (connected) b = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (listener >= 0) close(listener);
    const int one = 1;
    return connected && b >= 0 && setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0 &&
           setsockopt(b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0;
  }
};

// Polls before it blocks: the better of the two ways on this machine is the ceiling.
bool receive_byte(int fd) {
  char byte;
  for (;;) {
    const ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
    if (got == 1) return true;
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) return false;
    sched_yield();
  }
}

double tcp_latency() {
  Loopback link;
  if (!link.open()) return 0;
  constexpr int k_trips = 1000;
  std::thread other([&] {
    const char byte = 1;
    for (int i = 0; i < k_trips * k_rounds; ++i)
      if (!receive_byte(link.b) || send(link.b, &byte, 1, MSG_NOSIGNAL) != 1) return;
  });
  double best = 1e9;
  const char byte = 1;
  for (int round = 0; round < k_rounds; ++round) {
    const auto start = Clock::now();
    for (int i = 0; i < k_trips; ++i)
      if (send(link.a, &byte, 1, MSG_NOSIGNAL) != 1 || !receive_byte(link.a)) break;
    best = std::min(best, seconds_since(start) / (2.0 * k_trips) * 1e6);
  }
  shutdown(link.a, SHUT_RDWR);
  other.join();
  return best;
}

double tcp_bandwidth() {
  Loopback link;
  if (!link.open()) return 0;
  constexpr size_t k_piece = size_t{256} << 10;
  std::thread sender([&] {
    const std::vector<char> piece(k_piece, 1);
    while (send(link.a, piece.data(), piece.size(), MSG_NOSIGNAL) > 0) {
    }
  });
  std::vector<char> piece(k_piece);
  double best = 0;
  for (int round = 0; round < k_rounds; ++round) {
    const auto start = Clock::now();
    double moved = 0;
    while (seconds_since(start) < 0.03) {
      const ssize_t got = recv(link.b, piece.data(), piece.size(), 0);
      if (got <= 0) break;
      moved += static_cast<double>(got);
    }
    best = std::max(best, moved / seconds_since(start) / 1e9);
  }
  shutdown(link.b, SHUT_RDWR);
  shutdown(link.a, SHUT_RDWR);
  sender.join();
  return best;
}

// Reads plus writes of memory that the collective cannot avoid, in copies of `bytes`.
double copies(Collective collective, double n) {
  switch (collective) {
    case Collective::all_reduce:
    case Collective::all_to_all:
    case Collective::all_to_all_v:
    case Collective::send_recv:
      return n;
    case Collective::reduce_scatter:
    case Collective::all_gather:
    case Collective::reduce:
      return (n + 1) / 2;
    case Collective::broadcast:
      return n / 2;
    default:
      return 1;
  }
}

// Bytes that must cross connections between the ranks, in multiples of `bytes`.
double crossings(Collective collective, double n) {
  switch (collective) {
    case Collective::all_reduce:
      return 2 * (n - 1);
    case Collective::gather:
    case Collective::scatter:
      return (n - 1) / n;
    case Collective::send_recv:
      return n;
    default:
      return n - 1;
  }
}

}  // namespace

unsigned allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0)
    return std::max(1u, std::thread::hardware_concurrency());
  return static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
}

double Ceilings::least_us(Collective collective, size_t bytes, uint32_t ranks, bool tcp) const {
  if (ranks < 2) return 0;
  const auto size = static_cast<double>(bytes);
  if (tcp) {
    const double moved = crossings(collective, ranks) * size;
    return tcp_gbps > 0 ? std::max(tcp_us, moved / tcp_gbps / 1e3) : 0;
  }
  if (copy_gbps.empty()) return flag_us;
  auto at = std::lower_bound(copy_gbps.begin(), copy_gbps.end(), std::pair{bytes, 0.0});
  if (at == copy_gbps.end()) --at;
  return std::max(flag_us, copies(collective, ranks) * size / at->second / 1e3);
}

std::vector<std::string> Ceilings::lines() const {
  std::string copy_line = "#   copy of one buffer, all cores (GB/s):";
  for (const auto& [bytes, gbps] : copy_gbps) copy_line += fmt::format(" {}:{:.1f}", bytes, gbps);
  return {fmt::format("# Ceilings measured in this run, {} cores:", cores), copy_line,
          fmt::format("#   flag between two threads, one way: {:.3f} us; TCP loopback: {:.1f} us "
                      "one way, {:.1f} GB/s",
                      flag_us, tcp_us, tcp_gbps),
          "#   %ceil: least possible time (latency, or inputs read and outputs written once at "
          "copy bandwidth) / time"};
}

Ceilings measure_ceilings(const std::vector<size_t>& sizes) {
  Ceilings ceilings;
  ceilings.cores = allowed_cores();
  ceilings.flag_us = flag_latency(ceilings.cores);
  ceilings.tcp_us = tcp_latency();
  ceilings.tcp_gbps = tcp_bandwidth();
  std::vector<size_t> wanted;
  for (size_t size : sizes) wanted.push_back(std::clamp(size, k_smallest_copy, k_largest_copy));
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  if (wanted.empty()) return ceilings;
  const size_t room = std::max(wanted.back(), size_t{64} * ceilings.cores);
  void* a = allocate_pages(room);
  void* b = allocate_pages(room);
  if (a != nullptr && b != nullptr) {
    std::memset(a, 1, room);
    for (size_t size : wanted) {
      auto* to = static_cast<char*>(b);
      const auto* from = static_cast<const char*>(a);
      ceilings.copy_gbps.emplace_back(
          size, std::max(copy_bandwidth(to, from, size, ceilings.cores, false),
                         copy_bandwidth(to, from, size, ceilings.cores, true)));
    }
  }
  if (a != nullptr) release_pages(a, room);
  if (b != nullptr) release_pages(b, room);
  return ceilings;
}

}  // namespace tutti::perf
