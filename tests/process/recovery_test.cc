// Processes die and the others go on: they learn of it, revoke, agree on who is left, shrink, and
// finish with the right sums; a new process grows in. Nothing is restarted, nothing hangs, no sum
// is ever wrong.
#include <algorithm>
#include <cstdio>
#include <random>

#include "tests/process/processes.h"

namespace tutti::processes {
namespace {

using std::chrono::seconds;
using SteadyClock = std::chrono::steady_clock;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(SteadyClock::now().time_since_epoch())
      .count();
}
double since(int64_t ns) { return static_cast<double>(now_ns() - ns) * 1e-9; }

// What Board::seconds holds.
enum Phase { detect, revoke, agree, shrink, grow, k_phases };
constexpr const char* k_phase_names[] = {"detect", "revoke", "agree", "shrink", "grow"};

void print_times(const std::string& title, const Board& board, const std::vector<Rank>& ranks) {
  std::printf("%s, ms (median/max over %zu ranks):", title.c_str(), ranks.size());
  for (int phase = 0; phase < k_phases; ++phase) {
    std::vector<double> all;
    for (Rank r : ranks) all.push_back(board.seconds[r][phase] * 1e3);
    std::sort(all.begin(), all.end());
    std::printf(" %s %.2f/%.2f", k_phase_names[phase], all[all.size() / 2], all.back());
  }
  std::printf("\n");
}

// A communicator and who its ranks are, as numbers of the first communicator.
struct Team {
  std::unique_ptr<Communicator> owned;
  Communicator* comm = nullptr;
  std::vector<int> members;
  double sum() const {
    double total = 0;
    for (int m : members) total += m + 1;
    return total;
  }
};

std::string all_reduce_checked(Team& team, int me, size_t count, Status* failure,
                               double* second = nullptr) {
  std::vector<double> x(count, me + 1), y(count);
  if (second != nullptr) x[1] = *second;
  *failure = team.comm->all_reduce(x.data(), y.data(), count, DType::float64, ReduceOp::sum);
  if (!failure->ok()) return "";
  if (second != nullptr) *second = y[1];
  if (y[0] != team.sum() || (count > 2 && y[count - 1] != team.sum()))
    return "wrong sum " + std::to_string(y[0]) + ", not " + std::to_string(team.sum());
  return "";
}

// Until all who live have entered the same smaller communicator, and know that all have.
std::string recover(Team& team, double* times) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    int64_t start = now_ns();
    auto who = team.comm->agree(1, seconds(20));
    if (!who) return "agree: " + who.status().to_string();
    times[agree] = since(start);
    start = now_ns();
    auto smaller = team.comm->shrink(who->failed);
    times[shrink] = since(start);
    auto all_in = team.comm->agree(smaller.ok(), seconds(20));
    if (!all_in) return "agree after shrink: " + all_in.status().to_string();
    if (all_in->flags != 1) continue;
    std::vector<int> members;
    for (Rank r = 0; r < team.comm->ranks(); ++r)
      if (!std::binary_search(who->failed.begin(), who->failed.end(), r))
        members.push_back(team.members[r]);
    team.owned = std::move(*smaller);
    team.comm = team.owned.get();
    team.members = std::move(members);
    return "";
  }
  return "ten attempts to shrink failed";
}

struct Scene {
  std::string title;
  std::string transport;
  size_t count = 1;
  std::vector<Rank> victims;
};
void PrintTo(const Scene& s, std::ostream* out) { *out << s.title; }

// "mixed": two hosts of four ranks each.
Config config_of(const std::string& transport, Rank rank) {
  Config config = over(transport == "mixed" ? "shm" : transport);
  if (transport == "mixed") {
    config.transports.push_back("tcp");
    config.host_id = rank < 4 ? "a" : "b";
  }
  config.init_timeout = 20;
  return config;
}

class Recovery : public ::testing::TestWithParam<Scene> {};

TEST_P(Recovery, SurvivorsAgreeShrinkFinishAndGrow) {
  constexpr uint32_t k_ranks = 8;
  const Scene scene = GetParam();
  const auto dead = static_cast<uint32_t>(scene.victims.size());
  auto body = [&](Communicator& c, Board& board) -> std::string {
    const int me = static_cast<int>(c.rank());
    double* times = board.seconds[me];
    Team team{nullptr, &c, {0, 1, 2, 3, 4, 5, 6, 7}};
    Status failure;
    std::string wrong;
    do {
      wrong = all_reduce_checked(team, me, scene.count, &failure);
      ++board.progress[me];
    } while (failure.ok() && wrong.empty());
    times[detect] = since(board.killed_at.load());
    if (!wrong.empty()) return wrong;
    bool named = failure.code() == Code::aborted;  // somebody's revocation can be first
    for (Rank v : scene.victims)
      named |= failure.message().find("rank " + std::to_string(v)) != std::string::npos ||
               failure.message().find("peer " + std::to_string(v)) != std::string::npos;
    if (!named) return "nobody is named: " + failure.to_string();
    int64_t start = now_ns();
    c.revoke("a test's rank died");
    times[revoke] = since(start);
    if (std::string s = recover(team, times); !s.empty()) return s;
    if (team.comm->ranks() != k_ranks - dead) return "not all survivors are there";
    for (Rank v : scene.victims) {
      const std::vector<Rank> failed = c.failed();
      if (std::find(failed.begin(), failed.end(), v) == failed.end()) return "failed() lacks one";
    }
    for (int i = 0; i < 10; ++i) {
      wrong = all_reduce_checked(team, me, scene.count, &failure);
      if (!failure.ok()) return "after shrink: " + failure.to_string();
      if (!wrong.empty()) return "after shrink: " + wrong;
    }
    if (c.barrier().ok()) return "the old communicator still works";
    // A new process for each dead one.
    UniqueId id;
    const bool founder = team.comm->rank() == 0;
    if (founder) {
      auto made = team.comm->grow_id();
      if (!made) return made.status().to_string();
      id = board.second = *made;
      board.second_ready = 1;
    }
    start = now_ns();
    auto grown = team.comm->grow(k_ranks, founder ? &id : nullptr);
    times[grow] = since(start);
    if (!grown) return "grow: " + grown.status().to_string();
    double x = 1;
    const Status s = (*grown)->all_reduce(&x, &x, 1, DType::float64, ReduceOp::sum);
    if (!s.ok()) return "grown: " + s.to_string();
    return x == k_ranks ? "" : "grown: wrong sum";
  };
  Job job(
      k_ranks, [&](Rank r) { return config_of(scene.transport, r); }, body);
  for (uint32_t i = 0; i < dead; ++i)
    job.add(k_ranks + i, [&, i](Board& board) -> std::string {
      while (board.second_ready == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      auto made = Communicator::create(board.second, k_ranks - dead + i, k_ranks,
                                       config_of(scene.transport, k_ranks - dead + i));
      if (!made) return made.status().to_string();
      double x = 1;
      const Status s = (*made)->all_reduce(&x, &x, 1, DType::float64, ReduceOp::sum);
      return s.ok() && x == k_ranks ? "" : "newcomer: " + s.to_string();
    });
  Board& board = job.board();
  ASSERT_TRUE(job.wait_until([&] { return board.progress[scene.victims[0]] > 20; }));
  board.killed_at = now_ns();
  for (Rank v : scene.victims) kill(job.pid(v), SIGKILL);
  std::vector<Rank> survivors;
  for (Rank r = 0; r < k_ranks + dead; ++r) {
    const bool victim = std::count(scene.victims.begin(), scene.victims.end(), r) > 0;
    const int status = job.wait_for(r);
    if (victim) continue;
    EXPECT_EQ(status, 0) << "rank " << r;
    EXPECT_EQ(job.said(r), "") << "rank " << r;
    if (r < k_ranks) survivors.push_back(r);
  }
  print_times(scene.title, board, survivors);
}

INSTANTIATE_TEST_SUITE_P(Scenes, Recovery,
                         ::testing::Values(Scene{"shm_one", "shm", 1, {3}},
                                           Scene{"shm_large", "shm", 1 << 17, {5}},
                                           Scene{"shm_root", "shm", 1 << 10, {0}},
                                           Scene{"shm_two", "shm", 1 << 10, {0, 1}},
                                           Scene{"tcp_one", "tcp", 1, {3}},
                                           Scene{"tcp_large", "tcp", 1 << 17, {5}},
                                           Scene{"tcp_root", "tcp", 1 << 10, {0}},
                                           Scene{"tcp_two", "tcp", 1 << 10, {0, 6}},
                                           Scene{"mixed_one", "mixed", 1 << 10, {4}},
                                           Scene{"mixed_root", "mixed", 1 << 10, {0}}),
                         [](const auto& scene) { return scene.param.title; });

class Transports : public ::testing::TestWithParam<std::string> {};

// One rank revokes while the others wait for it.
TEST_P(Transports, RevokeStopsEverybody) {
  constexpr uint32_t k_ranks = 8;
  Job job(k_ranks, over(GetParam()), [](Communicator& c, Board& board) -> std::string {
    const Rank me = c.rank();
    if (Status s = c.barrier(); !s.ok()) return s.to_string();
    ++board.progress[me];
    if (me == 5) {
      while (board.go == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      board.killed_at = now_ns();
      c.revoke("enough of it");
    }
    float x = 1;
    const Status s = c.all_reduce(&x, &x, 1, DType::float32, ReduceOp::sum);
    board.seconds[me][revoke] = since(board.killed_at);
    if (s.code() != Code::aborted) return s.to_string();
    if (s.message().find("rank 5: revoked: enough of it") == std::string::npos)
      return s.to_string();
    if (c.barrier().code() != Code::aborted) return "a later call";
    auto who = c.agree(me == 2 ? 6 : 7, seconds(10));
    if (!who) return who.status().to_string();
    if (who->flags != 6 || !who->failed.empty()) return "agreement";
    auto again = c.shrink({});
    if (!again) return again.status().to_string();
    const Status last = (*again)->barrier();
    return last.ok() ? "" : "barrier of the new one: " + last.to_string();
  });
  ASSERT_TRUE(job.wait_until([&] {
    for (Rank r = 0; r < k_ranks; ++r)
      if (job.board().progress[r] == 0) return false;
    return true;
  }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  job.board().go = 1;
  job.expect_all_well();
  print_times("revoke over " + GetParam(), job.board(), {0, 1, 2, 3, 4, 6, 7});
}

TEST_P(Transports, ADeathDuringAgreeAndAStuckProcess) {
  Job job(5, over(GetParam()), [](Communicator& c, Board& board) -> std::string {
    const Rank me = c.rank();
    if (Status s = c.barrier(); !s.ok()) return s.to_string();
    ++board.progress[me];
    if (me == 0 || me == 4) {
      while (board.go == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (me == 0) std::this_thread::sleep_for(seconds(60));  // killed meanwhile
    }
    // Rank 4 does not come in time: it is named, nobody decides.
    if (me != 4) {
      auto early = c.agree(3, std::chrono::milliseconds(700));
      if (early || early.status().code() != Code::timeout) return "early: decided without rank 4";
      const std::string& text = early.status().message();
      if (text.find("peer 4 (host ") == std::string::npos) return "early: " + text;
    }
    auto who = c.agree(me == 4 ? 5 : 7, seconds(20));
    if (!who) return who.status().to_string();
    if (who->flags != 1 || who->failed != std::vector<Rank>{0}) return "agreement";
    auto left = c.shrink(who->failed);
    if (!left) return left.status().to_string();
    int x = static_cast<int>(me), y = 0;
    const Status s = (*left)->all_reduce(&x, &y, 1, DType::int32, ReduceOp::sum);
    return s.ok() && y == 10 ? "" : s.to_string();
  });
  ASSERT_TRUE(job.wait_until([&] { return job.board().progress[0] > 0; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the others are in agree
  kill(job.pid(0), SIGKILL);
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  job.board().go = 1;
  for (Rank r : {1u, 2u, 3u, 4u}) {
    EXPECT_EQ(job.wait_for(r), 0) << "rank " << r;
    EXPECT_EQ(job.said(r), "") << "rank " << r;
  }
}

TEST_P(Transports, RandomDeathsNeverHangAndNeverGiveAWrongSum) {
  constexpr uint32_t k_ranks = 6;
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Job job(k_ranks, config_of(GetParam(), 0), [](Communicator& c, Board& board) -> std::string {
      const int me = static_cast<int>(c.rank());
      Team team{nullptr, &c, {0, 1, 2, 3, 4, 5}};
      std::vector<std::unique_ptr<Communicator>> old;
      for (;;) {
        double stop = board.go == 0 ? 0 : 1;
        Status failure;
        std::string wrong = all_reduce_checked(team, me, 64, &failure, &stop);
        if (!wrong.empty()) return wrong;
        ++board.progress[me];
        if (failure.ok() && stop > 0) return "";
        if (failure.ok()) continue;
        team.comm->revoke("one is gone");
        old.push_back(std::move(team.owned));
        if (std::string s = recover(team, board.seconds[me]); !s.empty()) return s;
      }
    });
    std::mt19937 random(seed);
    ASSERT_TRUE(job.wait_until([&] { return job.board().progress[0] > 3; }));
    std::vector<Rank> order = {0, 1, 2, 3, 4, 5};
    std::shuffle(order.begin(), order.end(), random);
    const size_t deaths = 2 + random() % 4;
    for (size_t i = 0; i < deaths; ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
      kill(job.pid(order[i]), SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    job.board().go = 1;
    for (size_t i = deaths; i < k_ranks; ++i) {
      EXPECT_EQ(job.wait_for(order[i]), 0) << "rank " << order[i];
      EXPECT_EQ(job.said(order[i]), "") << "rank " << order[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Over, Transports, ::testing::Values("shm", "tcp"),
                         [](const auto& over) { return over.param; });

}  // namespace
}  // namespace tutti::processes
