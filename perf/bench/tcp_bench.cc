// tcp_bench: latency and bandwidth of the tcp transport beside bare sockets in the same run.
//
//   tcp_bench [--interface lo] [--connections K] [--megabytes N] [--iterations N] [--poll 0|1]
//
// Two processes. Latency: half a round trip of 4 bytes, both waiting by polling, and both waiting
// by blocking. Bandwidth: N MiB each way at once in messages of 256 KiB, per direction, received
// into the caller's memory. Medians of 9 interleaved runs.
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "src/base/socket.h"
#include "transports/tcp/tcp.h"

namespace tutti {
namespace {

constexpr int k_runs = 9;
constexpr size_t k_message = 256 << 10;

struct Settings {
  std::string interface = "lo";
  uint32_t connections = 1;
  size_t megabytes = 64;
  int iterations = 3000;
  bool poll = true;
};

[[noreturn]] void fail(const Status& status) {
  std::fprintf(stderr, "%s\n", status.to_string().c_str());
  std::_Exit(1);
}
template <class T>
T must(Result<T> result) {
  if (!result.ok()) fail(result.status());
  return std::move(*result);
}

double now() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

struct Meeting {
  char cards[2][256];
  size_t card_bytes[2];
  char address[128];
  std::atomic<uint32_t> arrived;
  void barrier() {
    const uint32_t turn = arrived.fetch_add(1) / 2;
    while (arrived.load() < 2 * (turn + 1)) ::usleep(20);
  }
};

// --- bare sockets

void move_all(int fd, bool sends, char* data, size_t bytes, bool blocks) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = sends ? ::send(fd, data + done, bytes - done, MSG_NOSIGNAL | MSG_DONTWAIT)
                            : ::recv(fd, data + done, bytes - done, MSG_DONTWAIT);
    if (n > 0) done += static_cast<size_t>(n);
    if (n < 0 && blocks) {
      pollfd entry{fd, static_cast<short>(sends ? POLLOUT : POLLIN), 0};
      (void)::poll(&entry, 1, 1000);
    }
  }
}

double raw_latency(int fd, int rank, int iterations, bool blocks) {
  char word[4] = {};
  const double begin = now();
  for (int i = 0; i < iterations; ++i) {
    for (const bool sends : {rank == 0, rank != 0}) move_all(fd, sends, word, sizeof word, blocks);
  }
  return (now() - begin) / iterations / 2;
}

double raw_bandwidth(int fd, std::vector<char>& out, std::vector<char>& in) {
  const double begin = now();
  size_t sent = 0, received = 0;
  while (sent < out.size() || received < in.size()) {
    ssize_t a = -1, b = -1;
    if (sent < out.size()) {
      const size_t part = std::min(k_message - sent % k_message, out.size() - sent);
      a = ::send(fd, &out[sent], part, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (a > 0) sent += static_cast<size_t>(a);
    }
    if (received < in.size()) {
      const size_t part = std::min(k_message - received % k_message, in.size() - received);
      b = ::recv(fd, &in[received], part, MSG_DONTWAIT);
      if (b > 0) received += static_cast<size_t>(b);
    }
    if (a > 0 || b > 0) continue;
    const short events =
        static_cast<short>((sent < out.size() ? POLLOUT : 0) | (received < in.size() ? POLLIN : 0));
    pollfd entry{fd, events, 0};
    (void)::poll(&entry, 1, 1000);
  }
  return static_cast<double>(out.size()) / (now() - begin);
}

// --- the transport

template <class F>
void settle(Transport& transport, Endpoint& endpoint, bool blocks, F&& attempt) {
  while (true) {
    const Io io = attempt();
    if (io == Io::done) return;
    if (io == Io::failed) fail(endpoint.status());
    if (blocks)
      transport.wait(std::chrono::seconds(1));
    else
      (void)transport.progress();
  }
}

double tutti_latency(Transport& transport, Endpoint& endpoint, Rank rank, int iterations,
                     bool blocks) {
  char word[4] = {};
  const iovec piece{word, sizeof word};
  uint64_t signature = 0;
  size_t bytes = 0;
  const double begin = now();
  for (int i = 0; i < iterations; ++i) {
    for (const bool sends : {rank == 0, rank != 0}) {
      settle(transport, endpoint, blocks, [&] {
        return sends ? endpoint.send(1, {&piece, 1})
                     : endpoint.recv({&piece, 1}, &signature, &bytes);
      });
    }
  }
  return (now() - begin) / iterations / 2;
}

double tutti_bandwidth(Transport& transport, Endpoint& endpoint, std::vector<char>& out,
                       std::vector<char>& in) {
  const double begin = now();
  size_t sent = 0, received = 0;
  uint64_t signature = 0;
  size_t bytes = 0;
  while (sent < out.size() || received < in.size()) {
    bool moved = false;
    if (sent < out.size()) {
      const iovec piece{&out[sent], std::min(k_message, out.size() - sent)};
      if (endpoint.send(2, {&piece, 1}) == Io::done) sent += piece.iov_len, moved = true;
    }
    if (received < in.size()) {
      const iovec piece{&in[received], std::min(k_message, in.size() - received)};
      if (endpoint.recv({&piece, 1}, &signature, &bytes) == Io::done)
        received += bytes, moved = true;
    }
    if (moved) continue;
    if (!endpoint.status().ok()) fail(endpoint.status());
    transport.wait(std::chrono::seconds(1));
  }
  return static_cast<double>(out.size()) / (now() - begin);
}

struct Series {
  const char* name;
  double scale;
  std::vector<double> tutti, raw;
  static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }
  void print() const {
    const double a = median(tutti) * scale, b = median(raw) * scale;
    std::printf("%-34s %10.3f %10.3f %8.2f\n", name, a, b, a / b);
  }
};

Fd raw_socket(Rank rank, const Settings& settings, Meeting& meeting) {
  if (rank == 0) {
    const Interface interface = must(select_interface(settings.interface, ""));
    Fd listener = must(listen_on(interface.address));
    const std::string text = must(local_address(listener.get())).to_string();
    std::memcpy(meeting.address, text.c_str(), text.size() + 1);
    meeting.barrier();
    return must(accept_from(listener.get(), Clock::now() + std::chrono::seconds(10))).fd;
  }
  meeting.barrier();
  return must(
      connect_to(must(Address::parse(meeting.address)), Clock::now() + std::chrono::seconds(10)));
}

void run(Rank rank, const Settings& settings, Meeting& meeting) {
  TransportOptions options;
  options.rank = rank;
  options.ranks = 2;
  options.key.assign(32, std::byte{1});
  options.interface = settings.interface;
  options.connections_per_peer = settings.connections;
  auto transport = must(make_tcp_transport(options));
  const std::string card = transport->card();
  std::memcpy(meeting.cards[rank], card.data(), card.size());
  meeting.card_bytes[rank] = card.size();
  meeting.barrier();
  std::vector<std::string> cards;
  for (int r = 0; r < 2; ++r) cards.emplace_back(meeting.cards[r], meeting.card_bytes[r]);
  if (Status s = transport->connect(cards, Clock::now() + std::chrono::seconds(10)); !s.ok())
    fail(s);
  Endpoint& endpoint = *must(transport->open(1 - rank, 0, {k_message, 4}));
  const Fd raw = raw_socket(rank, settings, meeting);
  set_no_delay(raw.get());

  std::vector<char> out(settings.megabytes << 20, 1), in(settings.megabytes << 20, 2);
  Series polling{"4 B one way, polling (us)", 1e6, {}, {}};
  Series blocking{"4 B one way, blocking (us)", 1e6, {}, {}};
  Series bandwidth{"both directions, each (GB/s)", 1e-9, {}, {}};
  for (int i = 0; i < k_runs; ++i) {
    for (const bool blocks : {false, true}) {
      if (!blocks && !settings.poll) continue;
      Series& series = blocks ? blocking : polling;
      meeting.barrier();
      series.tutti.push_back(
          tutti_latency(*transport, endpoint, rank, settings.iterations, blocks));
      meeting.barrier();
      series.raw.push_back(
          raw_latency(raw.get(), static_cast<int>(rank), settings.iterations, blocks));
    }
    meeting.barrier();
    bandwidth.tutti.push_back(tutti_bandwidth(*transport, endpoint, out, in));
    meeting.barrier();
    bandwidth.raw.push_back(raw_bandwidth(raw.get(), out, in));
  }
  meeting.barrier();
  if (rank == 0) {
    std::printf("%-34s %10s %10s %8s\n", "", "tutti tcp", "bare", "ratio");
    for (const Series* series : {&polling, &blocking, &bandwidth}) {
      if (!series->tutti.empty()) series->print();
    }
  }
  transport->close(Clock::now() + std::chrono::seconds(5));
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) {
  tutti::Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--interface") settings.interface = argv[i + 1];
    if (flag == "--connections") settings.connections = static_cast<uint32_t>(atoi(argv[i + 1]));
    if (flag == "--iterations") settings.iterations = atoi(argv[i + 1]);
    if (flag == "--poll") settings.poll = atoi(argv[i + 1]) != 0;
    if (flag == "--megabytes") settings.megabytes = static_cast<size_t>(atoi(argv[i + 1]));
  }
  void* shared = ::mmap(nullptr, sizeof(tutti::Meeting), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* meeting = new (shared) tutti::Meeting{};
  const pid_t child = ::fork();
  tutti::run(child == 0 ? 1 : 0, settings, *meeting);
  if (child == 0) std::_Exit(0);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status == 0 ? 0 : 1;
}
