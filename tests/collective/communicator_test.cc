// What a communicator promises beyond single collectives: groups, asynchronous work, errors that
// name the culprit, abort.
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "src/communicator/impl.h"
#include "tests/collective/world.h"

namespace tutti::testing_world {
namespace {

using testing::HasSubstr;

TEST(Groups, SendAndReceiveInAnyOrder) {
  Communicators world = make_world(4);
  on_every_rank(world, [](Communicator& c) {
    const Rank r = c.rank();
    for (size_t count : {0u, 1u, 100u, 300000u}) {
      std::vector<int> out(4 * count), in(4 * count, -1);
      for (Rank p = 0; p < 4; ++p)
        for (size_t i = 0; i < count; ++i) out[p * count + i] = static_cast<int>(1000 * r + p);
      ASSERT_TRUE(c.group_start().ok());
      for (Rank p = 0; p < 4; ++p) {
        ASSERT_TRUE(c.send(out.data() + p * count, count, DType::int32, p).ok());
        ASSERT_TRUE(c.recv(in.data() + p * count, count, DType::int32, p).ok());
      }
      const Status s = c.group_end();
      ASSERT_TRUE(s.ok()) << s.to_string();
      for (Rank p = 0; p < 4; ++p)
        for (size_t i = 0; i < count; ++i)
          ASSERT_EQ(in[p * count + i], static_cast<int>(1000 * p + r));
    }
  });
}

TEST(Groups, UngroupedPingPongAndUnevenVectors) {
  Communicators world = make_world(3);
  on_every_rank(world, [](Communicator& c) {
    const Rank r = c.rank();
    double x = r;
    if (r == 0) {
      ASSERT_TRUE(c.send(&x, 1, DType::float64, 1).ok());
      ASSERT_TRUE(c.recv(&x, 1, DType::float64, 2).ok());
      EXPECT_EQ(x, 0.0);
    } else {
      ASSERT_TRUE(c.recv(&x, 1, DType::float64, r - 1).ok());
      ASSERT_TRUE(c.send(&x, 1, DType::float64, (r + 1) % 3).ok());
    }
    // Rank r sends r * p elements to rank p.
    std::vector<size_t> send_counts(3), send_offsets(3), recv_counts(3), recv_offsets(3);
    size_t sent = 0, received = 0;
    for (Rank p = 0; p < 3; ++p) {
      send_offsets[p] = sent;
      recv_offsets[p] = received;
      sent += send_counts[p] = r * p * 1000;
      received += recv_counts[p] = p * r * 1000;
    }
    std::vector<uint16_t> out(sent + 1, static_cast<uint16_t>(r)), in(received + 1, 99);
    const Status s = c.all_to_all_v(out.data(), send_counts, send_offsets, in.data(), recv_counts,
                                    recv_offsets, DType::bfloat16);
    ASSERT_TRUE(s.ok()) << s.to_string();
    for (Rank p = 0; p < 3; ++p)
      for (size_t i = 0; i < recv_counts[p]; ++i) ASSERT_EQ(in[recv_offsets[p] + i], p);
  });
}

TEST(Async, RunsInOrderAndBlockingCallsQueueBehind) {
  Communicators world = make_world(3);
  on_every_rank(world, [](Communicator& c) {
    std::vector<int64_t> x(5000, 1), y(5000);
    std::vector<Work> work;
    for (int i = 0; i < 10; ++i)
      work.push_back(c.all_reduce_async(x.data(), x.data(), x.size(), DType::int64, ReduceOp::sum));
    ASSERT_TRUE(c.all_reduce(x.data(), y.data(), x.size(), DType::int64, ReduceOp::sum).ok());
    int64_t expected = 1;
    for (int i = 0; i < 11; ++i) expected *= 3;
    for (int64_t v : y) ASSERT_EQ(v, expected);
    for (Work& w : work) {
      EXPECT_TRUE(w.done());
      EXPECT_TRUE(w.wait().ok());
    }
  });
}

TEST(Async, SignalsAreForTheProgramsOwnThreads) {
  Communicators world = make_world(1);
  sigset_t blocked;
  sigemptyset(&blocked);
  EXPECT_TRUE(world[0]
                  ->impl()
                  .submit([&] {
                    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
                    return Status();
                  })
                  .wait()
                  .ok());
  for (int signal : {SIGINT, SIGTERM, SIGUSR1, SIGALRM})
    EXPECT_EQ(sigismember(&blocked, signal), 1) << signal;
}

TEST(Async, WhatComesAfterTheGoodbyeIsAnError) {
  for (const bool worked : {false, true}) {
    Communicators world = make_world(1);
    Communicator& c = *world[0];
    float x = 1;
    if (worked) {
      EXPECT_TRUE(c.all_reduce_async(&x, &x, 1, DType::float32, ReduceOp::sum).wait().ok());
    }
    EXPECT_TRUE(c.finalize().ok());
    Work late = c.all_reduce_async(&x, &x, 1, DType::float32, ReduceOp::sum);
    EXPECT_EQ(late.wait().code(), Code::invalid_usage);
    EXPECT_THAT(late.wait().message(), HasSubstr("the communicator was finalized"));
  }
}

TEST(Several, CommunicatorsOverTheSameRanksProgressIndependently) {
  Communicators a = make_world(4), b = make_world(4);
  on_every_rank(a, [&](Communicator& c) {
    Communicator& other = *b[c.rank()];
    std::vector<float> x(1000, 1), y(1000, 2);
    // Issued in opposite orders on different ranks: only independent progress can finish this.
    Work first =
        c.rank() % 2 == 0
            ? c.all_reduce_async(x.data(), x.data(), 1000, DType::float32, ReduceOp::sum)
            : other.all_reduce_async(y.data(), y.data(), 1000, DType::float32, ReduceOp::sum);
    Work second =
        c.rank() % 2 == 0
            ? other.all_reduce_async(y.data(), y.data(), 1000, DType::float32, ReduceOp::sum)
            : c.all_reduce_async(x.data(), x.data(), 1000, DType::float32, ReduceOp::sum);
    ASSERT_TRUE(first.wait().ok());
    ASSERT_TRUE(second.wait().ok());
    EXPECT_EQ(x[0], 4.0f);
    EXPECT_EQ(y[999], 8.0f);
  });
}

// --- bad input: the caller's bug is an error that names it, and the communicator stays usable.

TEST(BadInput, IsRefusedByName) {
  Communicators world = make_world(2);
  on_every_rank(world, [](Communicator& c) {
    alignas(8) std::byte memory[256] = {};
    float* x = reinterpret_cast<float*>(memory);
    auto refused = [&](const Status& s, const std::string& word) {
      EXPECT_EQ(s.code(), Code::invalid_argument) << s.to_string();
      EXPECT_NE(s.message().find(word), std::string::npos) << s.to_string();
    };
    refused(c.all_reduce(nullptr, x, 1, DType::float32, ReduceOp::sum), "send buffer is null");
    refused(c.all_reduce(x, nullptr, 1, DType::float32, ReduceOp::sum), "receive buffer is null");
    refused(c.all_gather(x, nullptr, 1, DType::float32), "receive buffer is null");
    refused(c.reduce_scatter(nullptr, x, 1, DType::float32, ReduceOp::sum), "send buffer is null");
    refused(c.all_reduce(memory + 1, memory + 1, 1, DType::float32, ReduceOp::sum), "aligned");
    auto* nowhere = reinterpret_cast<void*>(UINTPTR_MAX - 2);
    refused(c.all_gather(x, nowhere, 1, DType::float32), "aligned");
    refused(c.all_reduce(x, x + 1, 2, DType::float32, ReduceOp::sum), "overlap");
    refused(c.all_reduce(x, x, SIZE_MAX / 2, DType::float32, ReduceOp::sum), "overflows");
    refused(c.all_reduce(x, x, 1, static_cast<DType>(12), ReduceOp::sum), "unknown dtype 12");
    refused(c.all_reduce(x, x, 1, DType::float32, static_cast<ReduceOp>(9)), "unknown op 9");
    refused(c.broadcast(x, x, 1, DType::float32, 2), "root 2 of 2 ranks");
    refused(c.send(x, 1, DType::float32, 7), "peer 7");
    const auto explained = [&](size_t count, DType dtype, Rank root) {
      return c.explain(Collective::gather, count, dtype, root, true);
    };
    EXPECT_THAT(explained(1, static_cast<DType>(12), 0), HasSubstr("gather: unknown dtype 12"));
    EXPECT_THAT(explained(1, DType::float32, 2), HasSubstr("root 2 of 2 ranks"));
    EXPECT_THAT(explained(SIZE_MAX / 2, DType::float32, 0), HasSubstr("overflows"));
    EXPECT_THAT(explained(1, DType::float32, 0), HasSubstr("gather 4 B: "));
    // Nothing of nowhere is no error.
    const size_t none[] = {0, 0}, far[] = {7, 7};
    EXPECT_TRUE(c.all_to_all_v(nullptr, none, far, nullptr, none, far, DType::float32).ok());
    EXPECT_EQ(c.group_end().code(), Code::invalid_usage);
    // Nothing of this broke anything.
    x[0] = 1;
    ASSERT_TRUE(c.all_reduce(x, x, 1, DType::float32, ReduceOp::sum).ok());
    EXPECT_EQ(x[0], 2.0f);
  });
}

TEST(BadInput, BadTuneIsRefused) {
  for (const char* tune : {"nonsense", "all_reduce:0-64K:unheard_of", "all_reduce:64K-1K:ring",
                           "all_reduce:0-64K", "all_reduce:0-inf:ring@0"}) {
    Config config;
    config.tune = tune;
    Result<Communicators> world = Communicator::create_local(2, config);
    ASSERT_FALSE(world.ok()) << tune;
    EXPECT_NE(world.status().message().find("tune"), std::string::npos)
        << world.status().to_string();
  }
}

// Ranks that disagree end with an error on every rank, naming both sides; none hangs.
struct Disagreement {
  const char* title;
  std::function<Status(Communicator&, float*)> odd, others;
  std::vector<std::string> words;
};

TEST(Disagreements, AreNamedOnEveryRank) {
  const std::vector<Disagreement> all = {
      {"count",
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 10, DType::float32, ReduceOp::sum);
       },
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 11, DType::float32, ReduceOp::sum);
       },
       {}},
      {"large count",
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 100, DType::float32, ReduceOp::sum);
       },
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 20000, DType::float32, ReduceOp::sum);
       },
       {}},
      {"dtype",
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 10, DType::int32, ReduceOp::sum);
       },
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 10, DType::float32, ReduceOp::sum);
       },
       {}},
      {"op",
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 10, DType::float32, ReduceOp::max);
       },
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 10, DType::float32, ReduceOp::sum);
       },
       {}},
      {"collective",
       [](Communicator& c, float* x) {
         return c.all_gather(x + 10 * c.rank(), x, 10, DType::float32);
       },
       [](Communicator& c, float* x) {
         return c.all_reduce(x, x, 10, DType::float32, ReduceOp::sum);
       },
       {}},
      {"root",
       [](Communicator& c, float* x) {
         return c.reduce(x, x, 10, DType::float32, ReduceOp::sum, 0);
       },
       [](Communicator& c, float* x) {
         return c.reduce(x, x, 10, DType::float32, ReduceOp::sum, 2);
       },
       {}},
  };
  for (const Disagreement& d : all) {
    SCOPED_TRACE(d.title);
    Communicators world = make_world(4);
    std::vector<Status> statuses(4);
    on_every_rank(world, [&](Communicator& c) {
      std::vector<float> x(1 << 16, 1.0f);
      // A rank that is through (a leaf of a tree) learns of it in its next call at the latest.
      statuses[c.rank()] = c.rank() == 1 ? d.odd(c, x.data()) : d.others(c, x.data());
      if (statuses[c.rank()].ok()) statuses[c.rank()] = c.barrier();
    });
    for (const Status& s : statuses) {
      EXPECT_FALSE(s.ok());
      EXPECT_EQ(s.code(), Code::invalid_usage) << s.to_string();
      EXPECT_NE(s.message().find("rank 1"), std::string::npos) << s.to_string();
    }
  }
}

TEST(Abort, UnblocksEveryRankAndLatches) {
  Communicators world = make_world(3);
  std::atomic<int> waiting{0};
  std::vector<Status> statuses(3);
  std::thread breaker([&] {
    while (waiting.load() < 2) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    world[1]->abort("the test says so");
  });
  on_every_rank(world, [&](Communicator& c) {
    if (c.rank() == 2) return;  // never joins: the others wait for ever
    float x = 1;
    ++waiting;
    statuses[c.rank()] = c.all_reduce(&x, &x, 1, DType::float32, ReduceOp::sum);
  });
  breaker.join();
  for (Rank r : {0u, 1u}) {
    EXPECT_EQ(statuses[r].code(), Code::aborted) << statuses[r].to_string();
    EXPECT_NE(statuses[r].message().find("rank 1: aborted: the test says so"), std::string::npos)
        << statuses[r].to_string();
  }
  float x = 1;
  // The first call finds what the others had already contributed; the next one cannot.
  Status late = world[2]->all_reduce(&x, &x, 1, DType::float32, ReduceOp::sum);
  if (late.ok()) late = world[2]->all_reduce(&x, &x, 1, DType::float32, ReduceOp::sum);
  EXPECT_EQ(late.code(), Code::aborted) << late.to_string();
  EXPECT_EQ(world[1]->error().code(), Code::aborted);
}

TEST(OnWait, EndsACallThatWaits) {
  Communicators world = make_world(2);
  std::atomic<int> asked{0};
  world[0]->on_wait(
      [&]() -> Status { return ++asked < 3 ? Status() : Status(Code::aborted, "interrupted"); });
  on_every_rank(world, [&](Communicator& c) {
    while (c.rank() == 1 && asked < 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    // Rank 0 had announced itself in the first barrier, so rank 1 may complete that one.
    Status s = c.barrier();
    if (c.rank() == 1 && s.ok()) s = c.barrier();
    EXPECT_EQ(s.code(), Code::aborted) << s.to_string();
    EXPECT_NE(s.message().find("rank 0: interrupted"), std::string::npos) << s.to_string();
  });
  EXPECT_EQ(asked, 3);
}

TEST(Late, IsReportedOnceWithTheNamesOfBoth) {
  Config config;
  config.late_after = 0.05;
  Communicators world = make_world(2, config);
  std::atomic<int> reports{0};
  std::string text;
  world[0]->on_late([&](const std::string& t) {
    text = t;
    ++reports;
  });
  on_every_rank(world, [&](Communicator& c) {
    int x = 1;
    while (c.rank() == 1 && reports.load() == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(c.all_reduce(&x, &x, 1, DType::int32, ReduceOp::sum).ok());
    EXPECT_EQ(x, 2);
  });
  EXPECT_EQ(reports.load(), 1);
  EXPECT_NE(text.find("rank 0: all_reduce #1 of 1 int32 sum is late"), std::string::npos) << text;
  EXPECT_NE(text.find("peer 1"), std::string::npos) << text;
}

TEST(Log, TellsHowRanksJoinedPlannedAndFailed) {
  Config config;
  config.debug = "INFO";
  config.debug_file = testing::TempDir() + "tutti-log.%p";
  const std::string path = testing::TempDir() + "tutti-log." + std::to_string(getpid());
  std::filesystem::remove(path);
  Communicators world = make_world(2, config);
  on_every_rank(world, [](Communicator& c) {
    std::vector<float> x(1000, 1.0f);
    EXPECT_TRUE(c.all_reduce(x.data(), x.data(), 1000, DType::float32, {}).ok());
  });
  world[0]->abort("the test says so");
  world.clear();
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  EXPECT_THAT(text.str(), HasSubstr("rank 1 [info] joined: tutti"));
  EXPECT_THAT(text.str(), HasSubstr("rank 0 [info] plan: all_reduce 4000 B"));
  EXPECT_THAT(text.str(), HasSubstr("rank 0 [warn] rank 0: aborted: the test says so"));
}

TEST(Log, ABadFileOrLevelIsRefused) {
  Config config;
  config.debug = "WARN";
  config.debug_file = "/nonexistent/folder/log";
  auto made = Communicator::create_local(1, config);
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(made.status().message(), HasSubstr("/nonexistent/folder/log"));
  config.debug = "LOUD";
  made = Communicator::create_local(1, config);
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(made.status().message(), HasSubstr("LOUD"));
}

TEST(Timeout, FailsNamingWhoIsWaitedFor) {
  Config config;
  config.timeout = 0.1;
  Communicators world = make_world(2, config);
  float x = 1;
  const Status s = world[0]->all_reduce(&x, &x, 1, DType::float32, ReduceOp::sum);
  EXPECT_EQ(s.code(), Code::timeout) << s.to_string();
  EXPECT_NE(s.message().find("peer 1"), std::string::npos) << s.to_string();
}

}  // namespace
}  // namespace tutti::testing_world
