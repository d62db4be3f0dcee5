// Profiles and feedback of communicators: rank 0's profile counts for all, bad ones fail on all
// ranks alike, and what calls teach is agreed on, kept and found again.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <thread>

#include "src/communicator/impl.h"
#include "src/cost/machine.h"
#include "src/cost/profile.h"
#include "tests/collective/world.h"

namespace tutti {
namespace {

namespace fs = std::filesystem;

class Tuning : public ::testing::Test {
 protected:
  Tuning() : folder_(fs::temp_directory_path() / fmt::format("tutti-tuning-{}", getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Tuning() override { fs::remove_all(folder_); }

  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  std::string profile(const std::string& name, double network_alpha,
                      const std::string& machine = describe_machine()) const {
    Profile p = builtin_profile();
    p.name = name;
    p.machine = machine;
    for (LinkCost& c : p.links[static_cast<int>(LinkClass::nic)]) c.alpha = network_alpha;
    return file(name + ".json", to_json(p));
  }
  static std::string read(const std::string& path) {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }

  fs::path folder_;
};

// Every rank with settings of its own.
struct World {
  std::vector<std::unique_ptr<Communicator>> ranks;
  std::vector<Status> statuses;

  explicit World(const std::vector<Config>& configs)
      : ranks(configs.size()), statuses(configs.size()) {
    const Result<UniqueId> id = UniqueId::create();
    EXPECT_TRUE(id.ok());
    std::vector<std::thread> threads;
    for (Rank r = 0; r < configs.size(); ++r)
      threads.emplace_back([&, r] {
        auto made = Communicator::create(*id, r, static_cast<uint32_t>(configs.size()), configs[r]);
        statuses[r] = made.status();
        if (made) ranks[r] = std::move(*made);
      });
    for (std::thread& t : threads) t.join();
  }
  bool ok() const {
    return std::all_of(statuses.begin(), statuses.end(), [](const Status& s) { return s.ok(); });
  }
};

Config sockets() {
  Config config;
  config.transports = {"tcp"};
  config.init_timeout = 30;
  return config;
}

TEST_F(Tuning, RankZerosProfileCountsForAll) {
  std::vector<Config> configs(4, sockets());
  configs[0].profile = profile("dear", 5e-2);
  configs[1].profile = profile("cheap", 1e-9);
  configs[2].profile = configs[0].profile;
  configs[3].profile = folder_ / "nowhere.json";
  configs[0].debug = "WARN";
  configs[0].debug_file = folder_ / "log";
  World world(configs);
  ASSERT_TRUE(world.ok());
  std::vector<double> seconds;
  for (auto& c : world.ranks)
    seconds.push_back(*c->estimate(Collective::all_reduce, 1 << 16, DType::float32));
  EXPECT_GT(seconds[0], 5e-2);
  for (double s : seconds) EXPECT_EQ(s, seconds[0]);
  EXPECT_NE(read(folder_ / "log").find("ranks 1, 3 have another profile: rank 0's counts"),
            std::string::npos)
      << read(folder_ / "log");
}

TEST_F(Tuning, RankZerosPricesOfDevicesCountForAll) {
  const auto device = [&](const std::string& name, double slot) {
    Profile p = builtin_profile();
    p.machine = describe_machine();
    p.device.slot = slot;
    if (slot > 1) p.device.proxy = 1e-6;
    return file(name, to_json(p));
  };
  std::vector<Config> configs(3, sockets());
  configs[0].profile = device("zero.json", 0.5);
  configs[1].profile = device("one.json", 2);
  configs[0].debug = "WARN";
  configs[0].debug_file = folder_ / "log";
  World world(configs);
  ASSERT_TRUE(world.ok());
  DeviceCost want;
  want.slot = 0.5;
  for (auto& c : world.ranks) EXPECT_EQ(c->impl().planner().profile().device, want);
  EXPECT_NE(read(folder_ / "log").find("rank 1 has another profile: rank 0's counts"),
            std::string::npos)
      << read(folder_ / "log");
}

TEST_F(Tuning, ABadProfileOfRankZeroFailsEverywhereAlike) {
  std::vector<Config> configs(3, sockets());
  configs[0].profile =
      file("bad.json", R"({"format": "tutti profile 1", "cpus": {"per_host": -3}})");
  World world(configs);
  for (const Status& s : world.statuses) {
    EXPECT_EQ(s.code(), Code::invalid_argument);
    EXPECT_NE(s.message().find("cpus.per_host: expected CPUs"), std::string::npos) << s.message();
    EXPECT_NE(s.message().find("bad.json"), std::string::npos) << s.message();
  }
}

TEST_F(Tuning, AMissingProfileOfRankZeroIsNamed) {
  std::vector<Config> configs(2, sockets());
  configs[0].profile = folder_ / "nowhere.json";
  World world(configs);
  for (const Status& s : world.statuses)
    EXPECT_NE(s.message().find("nowhere.json: cannot be read"), std::string::npos) << s.message();
}

TEST_F(Tuning, AProfileFromAnotherMachineIsNotUsed) {
  std::vector<Config> configs(2, sockets());
  configs[0].profile = profile("foreign", 5e-2, "Z80; 1 CPUs; CP/M 2.2");
  configs[0].debug = "WARN";
  configs[0].debug_file = folder_ / "log";
  World world(configs);
  ASSERT_TRUE(world.ok());
  EXPECT_LT(*world.ranks[1]->estimate(Collective::all_reduce, 16, DType::float32), 1e-2);
  const std::string log = read(folder_ / "log");
  EXPECT_NE(log.find("is from another machine (\"Z80; 1 CPUs; CP/M 2.2\""), std::string::npos)
      << log;
}

TEST_F(Tuning, FeedbackMustBeOnOrOff) {
  std::vector<Config> configs(2, sockets());
  configs[0].feedback = "maybe";
  World world(configs);
  for (const Status& s : world.statuses) EXPECT_EQ(s.code(), Code::invalid_argument);
}

// Calls of one size, until every trial must have ended; every result is checked.
void call_often(World& world, int calls, size_t count) {
  std::vector<std::thread> threads;
  for (auto& c : world.ranks)
    threads.emplace_back([&] {
      std::vector<float> in(count), out(count);
      for (int k = 0; k < calls; ++k) {
        for (size_t i = 0; i < count; ++i) in[i] = static_cast<float>((c->rank() + i + k) % 8);
        // In place is each rank's own matter, also while choices are tried.
        const bool in_place = (c->rank() + static_cast<uint32_t>(k)) % 3 == 0;
        float* result = in_place ? in.data() : out.data();
        const Status s = c->all_reduce(in.data(), result, count, DType::float32, ReduceOp::sum);
        ASSERT_TRUE(s.ok()) << s.to_string();
        for (size_t i = 0; i < count; i += 7) {
          float sum = 0;
          for (uint32_t r = 0; r < c->ranks(); ++r) sum += static_cast<float>((r + i + k) % 8);
          ASSERT_EQ(result[i], sum) << "call " << k;
        }
      }
    });
  for (std::thread& t : threads) t.join();
}

TEST_F(Tuning, WhatCallsTeachIsKeptAndFoundAgain) {
  std::vector<Config> configs(4, sockets());
  for (Config& c : configs) c.profile = profile("mine", 3e-6);
  const std::string learnt = configs[0].profile + ".learnt";
  size_t count = 0;
  {
    World world(configs);
    ASSERT_TRUE(world.ok());
    for (size_t n : {size_t{16}, size_t{1024}, size_t{16384}, size_t{100'000}}) {
      call_often(world, 40, n);
      if (count == 0 && fs::exists(learnt)) count = n;
    }
  }
  ASSERT_TRUE(fs::exists(learnt)) << "no size had choices with close prices";
  const std::string text = read(learnt);
  EXPECT_NE(text.find("all_reduce "), std::string::npos) << text;
  EXPECT_NE(text.find("; 4 ranks on 1 hosts of 4; transports tcp]"), std::string::npos) << text;

  // Another job plans with it: with an algorithm that the file names, whatever the prices say.
  const size_t line = text.find("\nall_reduce ") + 1;
  std::string changed = text;
  const uint64_t bytes = std::stoull(text.substr(line + 11));
  const size_t end = text.find('\n', line);
  changed.replace(line, end - line,
                  fmt::format("all_reduce {} float32 sum double_binary_tree 2 0", bytes));
  std::ofstream(learnt) << changed;
  World again(configs);
  ASSERT_TRUE(again.ok());
  for (auto& c : again.ranks)
    EXPECT_NE(
        c->explain(Collective::all_reduce, bytes / 4, DType::float32).find("double_binary_tree"),
        std::string::npos)
        << c->explain(Collective::all_reduce, bytes / 4, DType::float32);
  call_often(again, 3, bytes / 4);

  // Damage is told, and the file begun anew.
  std::ofstream(learnt) << changed.replace(line, 10, "all_deduce");
  configs[0].debug = "WARN";
  configs[0].debug_file = folder_ / "log";
  World third(configs);
  ASSERT_TRUE(third.ok());
  EXPECT_NE(read(folder_ / "log").find("it is begun anew"), std::string::npos);
}

TEST_F(Tuning, DeterministicLearnsNothing) {
  std::vector<Config> configs(3, sockets());
  for (Config& c : configs) {
    c.profile = profile("mine", 3e-6);
    c.feedback = "on";
    c.deterministic = true;
  }
  World world(configs);
  ASSERT_TRUE(world.ok());
  const std::string before = world.ranks[0]->explain(Collective::all_reduce, 1024, DType::float32);
  call_often(world, 40, 1024);
  EXPECT_EQ(world.ranks[0]->explain(Collective::all_reduce, 1024, DType::float32), before);
  EXPECT_FALSE(fs::exists(configs[0].profile + ".learnt"));
}

TEST_F(Tuning, EstimatesNeedNoBuffersAndNameBadArguments) {
  auto world = testing_world::make_world(4);
  for (int c = 0; c < k_collectives; ++c) {
    const auto collective = static_cast<Collective>(c);
    const Result<double> seconds = world[1]->estimate(collective, 1 << 20, DType::float16, 3);
    if (collective == Collective::all_to_all_v) {
      EXPECT_EQ(seconds.status().code(), Code::invalid_argument);
      continue;
    }
    ASSERT_TRUE(seconds.ok()) << name(collective) << ": " << seconds.status().to_string();
    EXPECT_GT(*seconds, 0) << name(collective);
    EXPECT_LT(*seconds, 10) << name(collective);
  }
  EXPECT_NE(world[1]
                ->estimate(Collective::broadcast, 1, DType::float16, 4)
                .status()
                .message()
                .find("root 4"),
            std::string::npos);
}

}  // namespace
}  // namespace tutti
