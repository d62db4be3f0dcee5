// A process that dies, leaves or cannot take part: every other rank gets an error that names it,
// within bounded time, whatever it was doing.
#include "tests/process/processes.h"

namespace tutti::processes {
namespace {

struct Scene {
  std::string title;
  std::string transport;
  size_t count;
};
void PrintTo(const Scene& s, std::ostream* out) { *out << s.title; }

class Death : public ::testing::TestWithParam<Scene> {};

TEST_P(Death, InTheMiddleOfAllReducesIsNamedByEverySurvivor) {
  const size_t count = GetParam().count;
  Job job(4, over(GetParam().transport), [count](Communicator& c, Board& board) -> std::string {
    std::vector<float> x(count, 1.0f), y(count);
    while (true) {
      const Status s = c.all_reduce(x.data(), y.data(), count, DType::float32, ReduceOp::sum);
      if (!s.ok()) return s.to_string();
      if (y[0] != 4.0f) return "wrong sum";
      ++board.progress[c.rank()];
    }
  });
  ASSERT_TRUE(job.wait_until([&] { return job.board().progress[2].load() > 20; }));
  kill(job.pid(2), SIGKILL);
  for (Rank r : {0u, 1u, 3u}) {
    EXPECT_EQ(job.wait_for(r), 0);
    EXPECT_NE(job.said(r).find("remote_error"), std::string::npos) << job.said(r);
    EXPECT_NE(job.said(r).find("rank 2"), std::string::npos) << job.said(r);
    EXPECT_NE(job.said(r).find("all_reduce #"), std::string::npos) << job.said(r);
  }
  job.wait_for(2);
}

INSTANTIATE_TEST_SUITE_P(Scenes, Death,
                         ::testing::Values(Scene{"shm_small", "shm", 1},
                                           Scene{"shm_large", "shm", 1 << 18},
                                           Scene{"tcp_small", "tcp", 1},
                                           Scene{"tcp_large", "tcp", 1 << 18}),
                         [](const auto& scene) { return scene.param.title; });

TEST(Leaving, WithoutDestroyIsAnErrorForThoseWhoWait) {
  for (const char* transport : {"shm", "tcp"}) {
    SCOPED_TRACE(transport);
    Job job(3, over(transport), [](Communicator& c, Board&) -> std::string {
      float x = 1;
      Status s = c.all_reduce(&x, &x, 1, DType::float32, ReduceOp::sum);
      if (!s.ok()) return "first: " + s.to_string();
      if (c.rank() == 1) _exit(7);  // no finalize, no destructor
      s = c.all_reduce(&x, &x, 1, DType::float32, ReduceOp::sum);
      return s.to_string();
    });
    for (Rank r : {0u, 2u}) {
      EXPECT_EQ(job.wait_for(r), 0);
      EXPECT_NE(job.said(r).find("rank 1"), std::string::npos) << job.said(r);
    }
    EXPECT_EQ(WEXITSTATUS(job.wait_for(1)), 7);
  }
}

// A rank that destroys its communicator while others go on: they are told, without any timeout set.
TEST(Leaving, WithAGoodbyeIsAnErrorForThoseWhoWait) {
  for (const char* transport : {"shm", "tcp"})
    for (const size_t count : {size_t{1}, size_t{1} << 16}) {
      SCOPED_TRACE(std::string(transport) + " " + std::to_string(count));
      Job job(3, over(transport), [count](Communicator& c, Board& board) -> std::string {
        std::vector<float> x(count, 1.0f), y(count);
        // What was sent before the goodbye still arrives.
        Status s = c.broadcast(x.data(), x.data(), count, DType::float32, 1);
        if (!s.ok()) {
          ++board.progress[c.rank()];
          return "first: " + s.to_string();
        }
        if (c.rank() == 1) return c.finalize().ok() ? "left" : "finalize";
        s = c.all_reduce(x.data(), y.data(), count, DType::float32, ReduceOp::sum);
        ++board.progress[c.rank()];
        // Who leaves now would be named by the other one.
        while (board.progress[0] == 0 || board.progress[2] == 0) std::this_thread::yield();
        return s.to_string();
      });
      for (Rank r : {0u, 2u}) {
        EXPECT_EQ(job.wait_for(r, std::chrono::seconds(30)), 0);
        EXPECT_NE(job.said(r).find("remote_error"), std::string::npos) << job.said(r);
        EXPECT_NE(job.said(r).find("1 ("), std::string::npos) << job.said(r);
      }
      EXPECT_EQ(job.wait_for(1), 0);
      EXPECT_EQ(job.said(1), "left");
    }
}

TEST(Fork, AChildGetsAnErrorAndTheParentGoesOn) {
  Job job(2, over("shm"), [](Communicator& c, Board&) -> std::string {
    int x = 1;
    if (!c.all_reduce(&x, &x, 1, DType::int32, ReduceOp::sum).ok()) return "before the fork";
    int y = 1;  // as of now there is a progress thread, which a child has not
    if (!c.all_reduce_async(&y, &y, 1, DType::int32, ReduceOp::sum).wait().ok())
      return "asynchronously, before the fork";
    const pid_t child = fork();
    if (child == 0) {
      const auto refused = [](const Status& s) {
        return s.code() == Code::invalid_usage &&
               s.message().find("forked child") != std::string::npos;
      };
      const bool both = refused(c.all_reduce(&x, &x, 1, DType::int32, ReduceOp::sum)) &&
                        refused(c.all_reduce_async(&x, &x, 1, DType::int32, ReduceOp::sum)
                                    .wait_for(std::chrono::seconds(20)));
      _exit(both ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) return "the child was not refused";
    const Status s = c.all_reduce(&x, &x, 1, DType::int32, ReduceOp::sum);
    return s.ok() && x == 4 ? "" : "after the fork: " + s.to_string();
  });
  job.expect_all_well();
}

TEST(Fork, AChildDestroysWhatItHasInherited) {
  auto world = Communicator::create_local(1, Config());
  ASSERT_TRUE(world.ok()) << world.status().to_string();
  int x = 1;
  Communicator& c = *(*world)[0];
  EXPECT_TRUE(c.all_reduce_async(&x, &x, 1, DType::int32, ReduceOp::sum).wait().ok());
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // it would wait for threads of the parent
    world->clear();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(Init, AMissingRankIsNamedAtTheDeadline) {
  Config config = over("tcp");
  config.init_timeout = 1.5;
  Job job(3, config, [](Communicator&, Board&) -> std::string { return "inside"; });
  kill(job.pid(2), SIGKILL);
  for (Rank r : {0u, 1u}) {
    job.wait_for(r);
    EXPECT_NE(job.said(r).find("2"), std::string::npos) << job.said(r);
    EXPECT_EQ(job.said(r).find("inside"), std::string::npos) << job.said(r);
  }
}

TEST(Init, UnknownInterfaceIsNamed) {
  Config config = over("tcp");
  config.socket_interface = "=nosuch0";
  config.init_timeout = 5;
  Job job(2, config, [](Communicator&, Board&) -> std::string { return "inside"; });
  for (Rank r : {0u, 1u}) {
    job.wait_for(r);
    // Whoever is second may find the other one gone already.
    const bool named = job.said(r).find("nosuch0") != std::string::npos;
    EXPECT_TRUE(named || (r == 1 && job.said(r).find("cannot reach the root") != std::string::npos))
        << job.said(r);
  }
}

TEST(Init, SettingsThatDifferAreRefused) {
  Config config = over("shm");
  Job job(2, config, [](Communicator& c, Board& board) -> std::string {
    // A second communicator with other settings on one rank.
    if (c.rank() == 0) {
      Result<UniqueId> id = UniqueId::create();
      if (!id) return id.status().to_string();
      board.id = *id;
    }
    if (!c.barrier().ok()) return "barrier";
    Config other = over("shm");
    other.init_timeout = 5;
    if (c.rank() == 1) other.slot_bytes *= 2;
    Result<std::unique_ptr<Communicator>> second =
        Communicator::create(board.id, c.rank(), 2, other);
    return second ? "inside" : second.status().to_string();
  });
  for (Rank r : {0u, 1u}) {
    job.wait_for(r);
    EXPECT_NE(job.said(r).find("other settings"), std::string::npos) << job.said(r);
  }
}

}  // namespace
}  // namespace tutti::processes
