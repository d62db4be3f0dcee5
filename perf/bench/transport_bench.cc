// transport_bench: one-way latency and bandwidth between two ranks of a host through the Endpoint
// interface, beside the same exchange by bare cache lines, so that the cost of the interface shows.
//
//   transport_bench [--transport shm|local] [--iterations N]
//
// shm: two processes; local: two threads; each pinned to a CPU of its own. Medians of 11 runs.
#include <sched.h>
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
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "transports/local/local_transport.h"
#include "transports/shm/shm_transport.h"

namespace tutti {
namespace {

constexpr int k_runs = 11;

// Where the two ranks meet before there is a transport.
struct alignas(64) Meeting {
  alignas(64) std::atomic<uint32_t> line[2];
  alignas(64) std::atomic<uint32_t> arrived;
  char cards[2][256];
  uint32_t card_bytes[2];
  struct alignas(64) Flag {
    std::atomic<uint64_t> word;
    uint64_t payload;
  } flags[2];

  void barrier() {
    const uint32_t turn = arrived.fetch_add(1) / 2;
    while (arrived.load() < 2 * (turn + 1)) sched_yield();
  }
};

void fail(const Status& status) {
  std::fprintf(stderr, "%s\n", status.to_string().c_str());
  std::exit(1);
}

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

double median_ns(const std::function<void()>& run, int iterations) {
  std::array<double, k_runs> ns{};
  run();
  for (double& value : ns) {
    const auto begin = Clock::now();
    run();
    value = std::chrono::duration<double, std::nano>(Clock::now() - begin).count() / iterations;
  }
  std::nth_element(ns.begin(), ns.begin() + k_runs / 2, ns.end());
  return ns[k_runs / 2];
}

void send_all(Endpoint& e, const iovec& piece) {
  while (true) {
    const Io io = e.send(7, {&piece, 1});
    if (io == Io::done) return;
    if (io == Io::failed) fail(e.status());
  }
}

void receive(Transport& t, Endpoint& e, const iovec& piece) {
  uint64_t signature = 0;
  size_t bytes = 0;
  for (uint32_t spins = 1;; ++spins) {
    const Io io = e.recv({&piece, 1}, &signature, &bytes);
    if (io == Io::done) return;
    if (io == Io::failed) fail(e.status());
    if (spins % 4096 == 0 && !t.progress().ok()) fail(t.progress());
  }
}

void ping_pong_lines(Meeting& meeting, int rank, int iterations) {
  auto& mine = meeting.flags[rank];
  auto& theirs = meeting.flags[1 - rank];
  const uint64_t base = mine.word.load();
  for (int i = 1; i <= iterations; ++i) {
    if (rank == 0) {
      mine.payload = i;
      mine.word.store(base + i, std::memory_order_release);
    }
    while (theirs.word.load(std::memory_order_acquire) != base + i) {
    }
    if (rank == 1) {
      mine.payload = theirs.payload;
      mine.word.store(base + i, std::memory_order_release);
    }
  }
}

void ping_pong(Transport& t, Endpoint& e, int rank, std::vector<std::byte>& buffer, size_t bytes,
               int iterations) {
  const iovec piece{buffer.data(), bytes};
  for (int i = 0; i < iterations; ++i) {
    if (rank == 0) send_all(e, piece);
    receive(t, e, piece);
    if (rank == 1) send_all(e, piece);
  }
}

void stream(Transport& t, Endpoint& e, int rank, std::vector<std::byte>& buffer, size_t bytes,
            int iterations) {
  const iovec piece{buffer.data(), bytes};
  for (int i = 0; i < iterations; ++i) {
    if (rank == 0) {
      send_all(e, piece);
    } else {
      receive(t, e, piece);
    }
  }
  while (rank == 0 && e.consumed() < e.sent()) {
  }
}

void rank_main(Meeting& meeting, int rank, const std::string& transport, int iterations) {
  pin(rank);
  TransportOptions options;
  options.rank = static_cast<Rank>(rank);
  options.ranks = 2;
  options.key.assign(32, std::byte{1});
  auto made = transport == "local" ? make_local_transport(options) : make_shm_transport(options);
  if (!made) fail(made.status());
  Transport& t = **made;
  const std::string card = t.card();
  std::memcpy(meeting.cards[rank], card.data(), card.size());
  meeting.card_bytes[rank] = static_cast<uint32_t>(card.size());
  meeting.barrier();
  const auto begin = Clock::now();
  const std::array<std::string, 2> cards{std::string(meeting.cards[0], meeting.card_bytes[0]),
                                         std::string(meeting.cards[1], meeting.card_bytes[1])};
  if (Status s = t.connect(cards, begin + std::chrono::seconds(10)); !s.ok()) fail(s);
  const double connect_us = std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
  auto endpoint = t.open(static_cast<Rank>(1 - rank), 0, {1 << 18, 4});
  if (!endpoint) fail(endpoint.status());
  std::vector<std::byte> buffer(1 << 18, std::byte{1});
  meeting.barrier();
  const double bare =
      median_ns([&] { ping_pong_lines(meeting, rank, iterations); }, iterations) / 2;
  if (rank == 0) {
    std::printf("%s: connect %.0f us, process_vm %s; bare line %.0f ns one way\n",
                transport.c_str(), connect_us, t.capabilities().remote_memory ? "yes" : "no", bare);
    std::printf("%10s %14s %14s\n", "bytes", "one way ns", "stream GB/s");
  }
  for (const size_t bytes : {0, 4, 8, 32, 48, 64, 256, 1024, 4096, 16384, 65536, 262144}) {
    const int n = std::max(200, static_cast<int>(iterations / (1 + bytes / 512)));
    meeting.barrier();
    const double one_way =
        median_ns([&] { ping_pong(t, **endpoint, rank, buffer, bytes, n); }, n) / 2;
    meeting.barrier();
    const double each = median_ns([&] { stream(t, **endpoint, rank, buffer, bytes, n); }, n);
    if (rank == 0) {
      std::printf("%10zu %14.0f %14.2f\n", bytes, one_way, static_cast<double>(bytes) / each);
    }
  }
  meeting.barrier();
  t.close(Clock::now() + std::chrono::seconds(1));
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) {
  std::string transport = "shm";
  int iterations = 100000;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--transport") {
      transport = argv[i + 1];
    } else if (flag == "--iterations") {
      iterations = std::atoi(argv[i + 1]);
    } else {
      std::fprintf(stderr, "usage: %s [--transport shm|local] [--iterations N]\n", argv[0]);
      return 2;
    }
  }
  void* shared = mmap(nullptr, sizeof(tutti::Meeting), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto& meeting = *static_cast<tutti::Meeting*>(shared);
  if (transport == "local") {
    std::thread other([&] { tutti::rank_main(meeting, 1, transport, iterations); });
    tutti::rank_main(meeting, 0, transport, iterations);
    other.join();
    return 0;
  }
  const pid_t child = fork();
  tutti::rank_main(meeting, child == 0 ? 1 : 0, transport, iterations);
  int status = 0;
  return child == 0 || (waitpid(child, &status, 0) == child && status == 0) ? 0 : 1;
}
