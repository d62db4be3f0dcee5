// init_bench: what a communicator of local processes costs to make and to hold.
//
//   init_bench [RANKS] [REPEATS]
//
// Forks RANKS processes (8), REPEATS times (9). Each, once all have started, makes a communicator
// from an id that rank 0 hands over, all-reduces 4 B to 4 MiB, makes a second one over the same
// ranks and all-reduces 4 B with it. Printed: median over the repeats of the slowest rank's time to
// make the first and the second communicator, and of the largest growth of a rank's Pss by each.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <new>
#include <string>
#include <vector>

#include "tutti/communicator.h"

namespace tutti {
namespace {

constexpr uint32_t k_most_ranks = 64;
enum Figure { first_ms, second_ms, first_mib, second_mib, k_figures };
using Figures = std::array<double, k_figures>;

struct Board {  // shared by the processes of one repeat
  std::atomic<uint32_t> arrived[8];
  UniqueId ids[2];
  Figures of[k_most_ranks];
  bool failed[k_most_ranks];
};

void meet(Board& board, int gate, uint32_t ranks) {
  board.arrived[gate].fetch_add(1);
  while (board.arrived[gate].load() < ranks) usleep(200);
}

// MiB of this process, its share of what is shared; file-backed pages excluded (code is not ours).
double pss_mib() {
  std::ifstream file("/proc/self/smaps_rollup");
  double kib = 0, part = 0;
  for (std::string word; file >> word;)
    if ((word == "Pss_Anon:" || word == "Pss_Shmem:") && file >> part) kib += part;
  return kib / 1024;
}

Status exercise(Communicator& communicator, std::vector<float>& buffer, size_t largest) {
  for (size_t count = 1; count <= largest; count *= 4)
    TUTTI_RETURN_IF_ERROR(communicator.all_reduce(buffer.data(), buffer.data(), count,
                                                  DType::float32, ReduceOp::sum));
  return communicator.barrier();
}

Status run_rank(Board& board, Rank rank, uint32_t ranks) {
  std::vector<float> buffer(1 << 20, 1.0f);
  Result<Config> config = Config::from_environment();
  if (!config) return config.status();
  std::unique_ptr<Communicator> made[2];
  for (int i = 0; i < 2; ++i) {
    if (rank == 0) {
      Result<UniqueId> id = UniqueId::create();
      if (!id) return id.status();
      board.ids[i] = *id;
    }
    meet(board, 3 * i, ranks);
    const double before = pss_mib();
    meet(board, 3 * i + 1, ranks);
    const auto start = std::chrono::steady_clock::now();
    Result<std::unique_ptr<Communicator>> joined =
        Communicator::create(board.ids[i], rank, ranks, *config);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (!joined) return joined.status();
    made[i] = std::move(*joined);
    TUTTI_RETURN_IF_ERROR(exercise(*made[i], buffer, i == 0 ? buffer.size() : 1));
    meet(board, 3 * i + 2, ranks);
    board.of[rank][static_cast<size_t>(first_ms + i)] = took.count();
    board.of[rank][static_cast<size_t>(first_mib + i)] = pss_mib() - before;
    meet(board, 6 + i, ranks);  // whoever left would leave its share of the memory to the others
  }
  return {};
}

// The largest figure of any rank; false when a rank failed.
bool repeat(uint32_t ranks, Figures* largest) {
  void* memory =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  Board& board = *new (memory) Board();
  std::vector<pid_t> children;
  for (Rank rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      const Status status = run_rank(board, rank, ranks);
      if (!status.ok()) fmt::print(stderr, "rank {}: {}\n", rank, status.to_string());
      _exit(status.ok() ? 0 : 1);
    }
    children.push_back(child);
  }
  bool good = true;
  for (pid_t child : children) {
    int code = 0;
    good &= child > 0 && waitpid(child, &code, 0) == child && code == 0;
  }
  for (size_t f = 0; f < k_figures; ++f) {
    (*largest)[f] = 0;
    for (Rank rank = 0; rank < ranks; ++rank)
      (*largest)[f] = std::max((*largest)[f], board.of[rank][f]);
  }
  munmap(memory, sizeof(Board));
  return good;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) {
  using namespace tutti;
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 8, repeats = argc > 2 ? std::atoi(argv[2]) : 9;
  if (ranks < 1 || ranks > static_cast<int>(k_most_ranks) || repeats < 1) {
    fmt::print(stderr, "usage: init_bench [RANKS (1..{})] [REPEATS]\n", k_most_ranks);
    return 2;
  }
  std::vector<Figures> all(static_cast<size_t>(repeats));
  for (Figures& one : all)
    if (!repeat(static_cast<uint32_t>(ranks), &one)) return 1;
  auto median = [&](Figure figure) {
    std::sort(all.begin(), all.end(),
              [&](const Figures& a, const Figures& b) { return a[figure] < b[figure]; });
    return all[all.size() / 2][figure];
  };
  fmt::print(
      "{} processes, median of {}: first communicator {:.1f} ms, {:.1f} MiB a rank (Pss); "
      "second {:.1f} ms, {:.2f} MiB\n",
      ranks, repeats, median(first_ms), median(first_mib), median(second_ms), median(second_mib));
  return 0;
}
