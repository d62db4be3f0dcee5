// The same through NCCL's API, libnccl.so.2: one of 8 processes is killed in the middle of an
// all_reduce; the survivors learn of it, revoke, agree on who is left, shrink, and finish with the
// right sums; a new process grows in. Nothing is restarted. Times are printed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "src/nccl/public.h"
#include "tests/process/processes.h"

namespace tutti::processes {
namespace {

constexpr int k_ranks = 8;
enum Phase { detect, revoke, shrink, finish, grow, k_phases };
constexpr const char* k_phase_names[] = {"detect", "revoke", "agree+shrink", "finish", "grow"};

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}
// Milliseconds since `*from`, which becomes now.
double lap(int64_t* from) {
  const int64_t before = std::exchange(*from, now_ns());
  return static_cast<double>(*from - before) * 1e-6;
}

#define TELL(call)                                                                                 \
  do {                                                                                             \
    if (ncclResult_t tell_ = (call); tell_ != ncclSuccess)                                         \
      return std::string(#call) + ": " + std::to_string(tell_) + ": " + ncclGetLastError(nullptr); \
  } while (0)

struct Scene {
  std::string title;
  std::map<std::string, std::string> environment;
  size_t count = 1;
  int victim = 3;
  bool two_hosts = false;  // ranks 0 to 3, and 4 to 7
  bool suicide = false;    // the environment kills the victim, inside of an operation
  bool blocking = true;
  bool agree = true;  // else the program says who is dead, as from a scheduler
};
void PrintTo(const Scene& s, std::ostream* out) { *out << s.title; }

void set_environment(const Scene& scene, int rank) {
  for (const auto& [name, value] : scene.environment) ::setenv(name.c_str(), value.c_str(), 1);
  ::setenv("TUTTI_INIT_TIMEOUT", "20", 1);
  if (scene.two_hosts) ::setenv("NCCL_HOSTID", rank < 4 ? "a" : "b", 1);
}

// The state that a communicator comes to rest in.
ncclResult_t settled(const ncclComm_t* comm, ncclResult_t result) {
  while (result == ncclInProgress) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    if (ncclResult_t asked = ncclCommGetAsyncError(*comm, &result); asked != ncclSuccess)
      return asked;
  }
  return result;
}

// Every element of every rank counts, not the first alone.
struct Sum {
  explicit Sum(size_t count) : in(count), out(count) {}
  std::vector<double> in, out;
  ncclResult_t run(ncclComm_t comm, int me) {
    for (size_t i = 0; i < in.size(); ++i) in[i] = (me + 1) * static_cast<double>(i % 7 + 1);
    std::fill(out.begin(), out.end(), -1);
    return settled(
        &comm, ncclAllReduce(in.data(), out.data(), in.size(), ncclDouble, ncclSum, comm, nullptr));
  }
  // "" or what is wrong, where the ranks' numbers + 1 add up to `total`.
  std::string wrong(double total) const {
    for (size_t i = 0; i < out.size(); ++i)
      if (out[i] != total * static_cast<double>(i % 7 + 1))
        return "element " + std::to_string(i) + " is " + std::to_string(out[i]);
    return {};
  }
};

std::string join(Board& board, const Scene& scene, int rank, ncclComm_t* comm) {
  ncclUniqueId id;
  if (rank == 0) {
    TELL(ncclGetUniqueId(&id));
    std::memcpy(board.id.bytes.data(), id.internal, sizeof id.internal);
    board.id_ready = 1;
  }
  while (board.id_ready == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::memcpy(id.internal, board.id.bytes.data(), sizeof id.internal);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = scene.blocking ? 1 : 0;
  TELL(settled(comm, ncclCommInitRankConfig(comm, k_ranks, id, rank, &config)));
  return {};
}

std::string grown_well(ncclComm_t grown, int me) {
  Sum sum(1000);
  for (int i = 0; i < 5; ++i) {
    TELL(sum.run(grown, me));
    if (std::string wrong = sum.wrong(36); !wrong.empty()) return "grown: " + wrong;
  }
  TELL(ncclCommDestroy(grown));
  return {};
}

// Until nothing goes on.
std::string until_failure(Board& board, ncclComm_t comm, int me, size_t count) {
  Sum sum(count);
  while (true) {
    const ncclResult_t result = sum.run(comm, me);
    if (result == ncclSuccess) {
      if (std::string wrong = sum.wrong(36); !wrong.empty()) return wrong;
      ++board.progress[me];
      continue;
    }
    // Who finds the death, and who finds that another rank has revoked for it.
    if (result != ncclRemoteError)
      return "a death is " + std::to_string(result) + ": " + ncclGetLastError(comm);
    return {};
  }
}

std::string survive(Board& board, const Scene& scene, int me) {
  set_environment(scene, me);
  ncclComm_t comm = nullptr, rest = nullptr, grown = nullptr;
  if (std::string trouble = join(board, scene, me, &comm); !trouble.empty()) return trouble;
  if (std::string trouble = until_failure(board, comm, me, scene.count); !trouble.empty())
    return trouble;
  const std::string cause = ncclGetLastError(comm);
  double* times = board.seconds[me];
  int64_t clock = now_ns();
  times[detect] = static_cast<double>(clock - board.killed_at.load()) * 1e-6;
  const std::string victim = std::to_string(scene.victim);
  const bool named = cause.find("rank " + victim) != std::string::npos ||
                     cause.find("peer " + victim) != std::string::npos ||
                     cause.find("revoked by rank") != std::string::npos;
  if (!named) return "nobody is named: " + cause;
  TELL(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
  times[revoke] = lap(&clock);
  int dead = scene.victim;
  TELL(settled(&rest, ncclCommShrink(comm, scene.agree ? nullptr : &dead, scene.agree ? 0 : 1,
                                     &rest, nullptr, NCCL_SHRINK_ABORT)));
  times[shrink] = lap(&clock);
  int ranks = 0, place = -1;
  TELL(ncclCommCount(rest, &ranks));
  TELL(ncclCommUserRank(rest, &place));
  if (ranks != k_ranks - 1 || place != me - (me > dead))
    return "another communicator than that of the survivors";
  Sum sum(scene.count);
  TELL(sum.run(rest, me));
  times[finish] = lap(&clock);
  for (int i = 0; i < 10; ++i) {
    if (std::string wrong = sum.wrong(36 - dead - 1); !wrong.empty()) return "survivors: " + wrong;
    TELL(sum.run(rest, me));
  }
  if (sum.run(comm, me) != ncclInvalidUsage) return "the revoked communicator still works";
  TELL(ncclCommDestroy(comm));
  ncclUniqueId id;
  if (place == 0) {
    TELL(ncclCommGetUniqueId(rest, &id));
    std::memcpy(board.second.bytes.data(), id.internal, sizeof id.internal);
    board.second_ready = 1;
  }
  clock = now_ns();
  TELL(settled(&grown,
               ncclCommGrow(rest, k_ranks, place == 0 ? &id : nullptr, -1, &grown, nullptr)));
  times[grow] = lap(&clock);
  TELL(ncclCommDestroy(rest));
  return grown_well(grown, place);
}

// The new process: the last rank of the grown communicator.
std::string enter(Board& board, const Scene& scene) {
  while (board.second_ready == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  Scene harmless = scene;
  harmless.environment.erase("TUTTI_FAULT");
  set_environment(harmless, k_ranks - 1);
  ncclUniqueId id;
  std::memcpy(id.internal, board.second.bytes.data(), sizeof id.internal);
  ncclComm_t grown = nullptr;
  TELL(ncclCommGrow(nullptr, k_ranks, &id, k_ranks - 1, &grown, nullptr));
  return grown_well(grown, k_ranks - 1);
}

void print_times(const Scene& scene, const Board& board) {
  std::printf("%s through libnccl.so.2, ms (median/max of 7 survivors):", scene.title.c_str());
  for (int phase = 0; phase < k_phases; ++phase) {
    if (scene.suicide && phase == detect) continue;  // nobody knows when
    std::vector<double> all;
    for (int r = 0; r < k_ranks; ++r)
      if (r != scene.victim) all.push_back(board.seconds[r][phase]);
    std::sort(all.begin(), all.end());
    std::printf(" %s %.2f/%.2f", k_phase_names[phase], all[all.size() / 2], all.back());
  }
  std::printf("\n");
}

class NcclRecovery : public ::testing::TestWithParam<Scene> {};

TEST_P(NcclRecovery, SurvivorsShrinkFinishAndGrow) {
  const Scene scene = GetParam();
  Job job(0, Config(), nullptr);
  for (int r = 0; r < k_ranks; ++r)
    job.add(r, [&, r](Board& board) { return survive(board, scene, r); });
  job.add(k_ranks, [&](Board& board) { return enter(board, scene); });
  Board& board = job.board();
  if (!scene.suicide) {
    ASSERT_TRUE(job.wait_until([&] { return board.progress[scene.victim] > 20; }));
    board.killed_at = now_ns();
    kill(job.pid(scene.victim), SIGKILL);
  }
  for (int r = 0; r <= k_ranks; ++r) {
    const int status = job.wait_for(r);
    if (r == scene.victim) {
      EXPECT_TRUE(WIFSIGNALED(status)) << "rank " << r << " was to die: " << job.said(r);
      continue;
    }
    EXPECT_EQ(status, 0) << "rank " << r;
    EXPECT_EQ(job.said(r), "") << "rank " << r;
  }
  print_times(scene, board);
}

const std::map<std::string, std::string> k_shm = {{"TUTTI_TRANSPORTS", "shm"}},
                                         k_tcp = {{"NCCL_SHM_DISABLE", "1"}};
std::map<std::string, std::string> dying(std::map<std::string, std::string> environment,
                                         const char* when) {
  environment["TUTTI_FAULT"] = std::string("die:rank=5,") + when;
  return environment;
}

INSTANTIATE_TEST_SUITE_P(
    Scenes, NcclRecovery,
    ::testing::Values(
        Scene{"shm_small", k_shm, 1}, Scene{"shm_large", k_shm, 1 << 17, 5},
        Scene{.title = "shm_root_listed",
              .environment = k_shm,
              .count = 1 << 10,
              .victim = 0,
              .agree = false},
        Scene{
            .title = "shm_nonblocking", .environment = k_shm, .count = 1 << 10, .blocking = false},
        Scene{"tcp_small", k_tcp, 1}, Scene{"tcp_large", k_tcp, 1 << 17, 5},
        Scene{.title = "tcp_root_nonblocking",
              .environment = k_tcp,
              .count = 1 << 10,
              .victim = 0,
              .blocking = false},
        Scene{
            .title = "mixed", .environment = {}, .count = 1 << 10, .victim = 4, .two_hosts = true},
        Scene{.title = "mixed_root",
              .environment = {},
              .count = 1 << 15,
              .victim = 0,
              .two_hosts = true},
        Scene{.title = "faulty_shm",
              .environment = dying(k_shm, "call=30"),
              .count = 1 << 15,
              .victim = 5,
              .suicide = true},
        Scene{.title = "faulty_tcp",
              .environment = dying(k_tcp, "op=301"),
              .count = 1 << 12,
              .victim = 5,
              .suicide = true}),
    [](const auto& scene) { return scene.param.title; });

// Processes die at random moments, also while the others shrink: no hang, no wrong sum.
class NcclRandomDeaths : public ::testing::TestWithParam<Scene> {};

TEST_P(NcclRandomDeaths, NeverHangAndNeverGiveAWrongSum) {
  const Scene scene = GetParam();
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Job job(0, Config(), nullptr);
    for (int r = 0; r < k_ranks; ++r)
      job.add(r, [&, r](Board& board) -> std::string {
        set_environment(scene, r);
        ncclComm_t comm = nullptr;
        if (std::string trouble = join(board, scene, r, &comm); !trouble.empty()) return trouble;
        while (true) {
          // Who is in: bits; and whether somebody has seen the end: above them.
          int64_t mine = int64_t{1} << r | (board.go == 0 ? 0 : int64_t{1} << 32), all = 0;
          const ncclResult_t result =
              settled(&comm, ncclAllReduce(&mine, &all, 1, ncclInt64, ncclSum, comm, nullptr));
          int ranks = 0;
          if (result == ncclSuccess) {
            TELL(ncclCommCount(comm, &ranks));
            if (__builtin_popcount(static_cast<uint32_t>(all)) != ranks || (all >> r & 1) == 0)
              return "a wrong sum";
            ++board.progress[r];
            if (all >> 32 != 0) return "";
            continue;
          }
          ncclComm_t rest = nullptr;
          TELL(ncclCommShrink(comm, nullptr, 0, &rest, nullptr, NCCL_SHRINK_ABORT));
          TELL(ncclCommDestroy(comm));
          comm = rest;
        }
      });
    std::mt19937 random(seed);
    ASSERT_TRUE(job.wait_until([&] { return job.board().progress[0] > 3; }));
    std::vector<Rank> order = {0, 1, 2, 3, 4, 5, 6, 7};
    std::shuffle(order.begin(), order.end(), random);
    const size_t deaths = 2 + random() % 5;
    for (size_t i = 0; i < deaths; ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
      kill(job.pid(order[i]), SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    job.board().go = 1;
    for (size_t i = deaths; i < order.size(); ++i) {
      EXPECT_EQ(job.wait_for(order[i]), 0) << "rank " << order[i];
      EXPECT_EQ(job.said(order[i]), "") << "rank " << order[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Over, NcclRandomDeaths,
                         ::testing::Values(Scene{"shm", k_shm}, Scene{"tcp", k_tcp}),
                         [](const auto& scene) { return scene.param.title; });

}  // namespace
}  // namespace tutti::processes
