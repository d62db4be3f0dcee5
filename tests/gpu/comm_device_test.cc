// The C++ API on device buffers (Communicator::on_stream), through whatever libcuda.so.1 the
// process finds: a real driver (label gpu), or the fake one. Skipped where there is none.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/gpu/device.h"
#include "tutti/communicator.h"

namespace tutti::cuda {
namespace {

using Values = std::vector<int32_t>;

class OnDevice : public testing::Test {
 protected:
  void SetUp() override {
    setenv("TUTTI_MULTI_RANK_GPU", "1", 1);
    const FoundDevice found = find_device();
    if (found.device == nullptr) GTEST_SKIP() << found.missing;
    driver_ = found.driver;
    runtime_ = found.runtime;
  }

  // A rank's thread: its communicator, and a stream and memory on its device.
  struct Rank {
    const Driver& driver;
    Communicator& comm;
    Stream stream = nullptr;
    std::vector<DevicePtr> memory;
    Rank(const Driver& d, Communicator& c) : driver(d), comm(c) {
      EXPECT_EQ(driver.stream_create(&stream, k_stream_non_blocking), 0);
    }
    ~Rank() {
      driver.stream_synchronize(stream);
      for (DevicePtr p : memory) driver.memory_free(p);
      driver.stream_destroy(stream);
    }
    int32_t* upload(const Values& values) {
      DevicePtr p = 0;
      EXPECT_EQ(driver.memory_alloc(&p, values.size() * 4), 0);
      memory.push_back(p);
      EXPECT_EQ(driver.copy_to_device(p, values.data(), values.size() * 4, stream), 0);
      EXPECT_EQ(driver.stream_synchronize(stream), 0);
      return reinterpret_cast<int32_t*>(p);
    }
    Values download(const int32_t* p, size_t n) const {
      Values values(n);
      EXPECT_EQ(driver.copy_to_host(values.data(), reinterpret_cast<DevicePtr>(p), n * 4, stream),
                0);
      EXPECT_EQ(driver.stream_synchronize(stream), 0);
      return values;
    }
    OnStream on() { return comm.on_stream(stream); }
  };

  // `body` as n ranks, each in a thread; rank r on device r modulo `devices`.
  void run(uint32_t n, int devices, const std::function<void(Rank&)>& body) {
    Result<Config> config = Config::from_environment();
    ASSERT_TRUE(config.ok());
    auto comms = Communicator::create_local(n, *config);
    ASSERT_TRUE(comms.ok()) << comms.status().to_string();
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < n; ++r)
      threads.emplace_back([&, r] {
        Scope scope(*driver_, (*runtime_->device(static_cast<int>(r) % devices))->context());
        Rank rank(*driver_, *(*comms)[r]);
        body(rank);
      });
    for (std::thread& t : threads) t.join();
  }

  // The same on devices of their own; hosts have equal shares of the ranks. A rank's communicator
  // ends with its thread.
  void run_on_hosts(uint32_t n, uint32_t hosts, const std::function<void(Rank&)>& body,
                    const std::string& fault = "") {
    const Result<UniqueId> id = UniqueId::create();
    ASSERT_TRUE(id.ok()) << id.status().to_string();
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < n; ++r)
      threads.emplace_back([&, r] {
        Result<Config> config = Config::from_environment();
        ASSERT_TRUE(config.ok());
        config->host_id = "host " + std::to_string(r * hosts / n);
        config->fault = fault;
        auto comm = Communicator::create(*id, r, n, *config);
        ASSERT_TRUE(comm.ok()) << comm.status().to_string();
        Scope scope(*driver_, (*runtime_->device(static_cast<int>(r)))->context());
        Rank rank(*driver_, **comm);
        body(rank);
      });
    for (std::thread& t : threads) t.join();
  }

  std::shared_ptr<const Driver> driver_;
  std::shared_ptr<Runtime> runtime_;
};

// Element i of what rank `from` sends to everyone, or as its block for `to`.
int32_t element(uint32_t from, size_t i) { return static_cast<int32_t>(from * 1000 + i); }

void every_call(Communicator& comm, OnStream on, const std::function<int32_t*(const Values&)>& put,
                const std::function<Values(const int32_t*, size_t)>& get, size_t count) {
  const uint32_t n = comm.ranks(), me = comm.rank(), root = n / 2;
  const auto made = [](size_t size, const std::function<int32_t(size_t)>& f) {
    Values values(size);
    for (size_t i = 0; i < size; ++i) values[i] = f(i);
    return values;
  };
  const auto check = [&](const char* what, const Status& status, const int32_t* p,
                         const Values& want) {
    ASSERT_TRUE(status.ok()) << what << ": " << status.to_string();
    EXPECT_EQ(get(p, want.size()), want) << what << " rank " << me << " of " << n;
  };
  const Values own = made(count, [&](size_t i) { return element(me, i); });
  const Values all = made(count * n, [&](size_t i) { return element(me, i); });
  const Values sum = made(count, [&](size_t i) {
    int32_t total = 0;
    for (uint32_t r = 0; r < n; ++r) total += element(r, i);
    return total;
  });
  const Values gathered = made(
      count * n, [&](size_t i) { return element(static_cast<uint32_t>(i / count), i % count); });
  const Values exchanged = made(count * n, [&](size_t i) {
    return element(static_cast<uint32_t>(i / count), me * count + i % count);
  });
  int32_t* x = put(own);
  int32_t* y = put(Values(count));
  check("all_reduce", on.all_reduce(x, y, count, DType::int32, ReduceOp::sum), y, sum);
  const int32_t factor = static_cast<int32_t>(me + 1);
  check("premul_sum",
        on.all_reduce(x, y, count, DType::int32, Reduction::premul_sum(DType::int32, &factor)), y,
        made(count, [&](size_t i) {
          int32_t total = 0;
          for (uint32_t r = 0; r < n; ++r) total += element(r, i) * static_cast<int32_t>(r + 1);
          return total;
        }));
  check("reduce", on.reduce(x, y, count, DType::int32, ReduceOp::sum, root), y,
        me == root ? sum : get(y, count));
  check("broadcast", on.broadcast(x, y, count, DType::int32, root), y,
        made(count, [&](size_t i) { return element(root, i); }));
  int32_t* big = put(Values(count * n));
  check("all_gather", on.all_gather(x, big, count, DType::int32), big, gathered);
  check("gather", on.gather(x, big, count, DType::int32, root), big,
        me == root ? gathered : get(big, count * n));
  int32_t* blocks = put(all);
  check("reduce_scatter", on.reduce_scatter(blocks, y, count, DType::int32, ReduceOp::sum), y,
        made(count, [&](size_t i) {
          int32_t total = 0;
          for (uint32_t r = 0; r < n; ++r) total += element(r, me * count + i);
          return total;
        }));
  check("scatter", on.scatter(blocks, y, count, DType::int32, root), y,
        made(count, [&](size_t i) { return element(root, me * count + i); }));
  check("all_to_all", on.all_to_all(blocks, big, count, DType::int32), big, exchanged);
  std::vector<size_t> counts(n, count), offsets(n);
  for (size_t r = 0; r < n; ++r) offsets[r] = r * count;
  int32_t* again = put(Values(count * n));
  check("all_to_all_v",
        on.all_to_all_v(blocks, counts, offsets, again, counts, offsets, DType::int32), again,
        exchanged);
  ASSERT_TRUE(comm.group_start().ok());
  EXPECT_TRUE(on.send(x, count, DType::int32, (me + 1) % n).ok());
  EXPECT_TRUE(on.recv(y, count, DType::int32, (me + n - 1) % n).ok());
  check("send and recv", comm.group_end(), y,
        made(count, [&](size_t i) { return element((me + n - 1) % n, i); }));
}

TEST_F(OnDevice, EveryCallOnDevicesOfTheirOwn) {
  const int devices = runtime_->devices();
  run(static_cast<uint32_t>(std::min(3, devices)), devices, [](Rank& rank) {
    for (size_t count : {3, 20000})
      every_call(
          rank.comm, rank.on(), [&](const Values& v) { return rank.upload(v); },
          [&](const int32_t* p, size_t n) { return rank.download(p, n); }, count);
    EXPECT_TRUE(rank.comm.error().ok()) << rank.comm.error().to_string();
  });
}

// In kernels of their own and by plans, bit for bit, of floats whose sum depends on the order:
// sizes in any order, and what only plans run in between.
TEST_F(OnDevice, SmallAllReducesEqualThoseByPlans) {
  const int devices = runtime_->devices();
  const auto n = static_cast<uint32_t>(std::min(4, devices));
  if (n < 2) GTEST_SKIP() << "needs two devices";
  const auto results = [&](const char* tune) {
    std::vector<Values> all(n);
    setenv("TUTTI_TUNE", tune, 1);
    run(n, devices, [&](Rank& rank) {
      Values& mine = all[rank.comm.rank()];
      for (size_t count : {1, 5000, 3, 800, 40000, 8, 8000, 1}) {
        Values values(count);
        for (size_t i = 0; i < count; ++i) {
          const float x =
              static_cast<float>(static_cast<int>((i * 7919 + rank.comm.rank() * 104729) % 2003) -
                                 1000) /
              997;
          std::memcpy(&values[i], &x, 4);
        }
        int32_t* x = rank.upload(values);
        int32_t* y = rank.upload(Values(count));
        for (ReduceOp op : {ReduceOp::sum, ReduceOp::avg, ReduceOp::prod}) {
          ASSERT_TRUE(rank.on().all_reduce(x, y, count, DType::float32, op).ok());
          const Values got = rank.download(y, count);
          mine.insert(mine.end(), got.begin(), got.end());
        }
        const float factor = 0.3f;
        ASSERT_TRUE(rank.on()
                        .all_reduce(x, x, count, DType::float32,
                                    Reduction::premul_sum(DType::float32, &factor))
                        .ok());
        ASSERT_TRUE(rank.on().broadcast(x, x, count, DType::float32, n - 1).ok());
        const Values got = rank.download(x, count);
        mine.insert(mine.end(), got.begin(), got.end());
      }
      EXPECT_TRUE(rank.comm.error().ok()) << rank.comm.error().to_string();
    });
    unsetenv("TUTTI_TUNE");
    for (uint32_t r = 1; r < n; ++r) EXPECT_EQ(all[r], all[0]);
    return all[0];
  };
  for (const char* tune : {"", "all_reduce:0-inf:direct_two_shot/packets"}) {
    const Values in_shots = results(tune);
    setenv("TUTTI_GPU_SHOTS", "0", 1);
    const Values by_plans = results(tune);
    unsetenv("TUTTI_GPU_SHOTS");
    EXPECT_FALSE(in_shots.empty());
    EXPECT_TRUE(in_shots == by_plans) << tune;
  }
}

// Hosts by name, two ranks on each: windows inside, mirrors and proxies between them.
TEST_F(OnDevice, EveryCallOnSeveralHosts) {
  constexpr uint32_t n = 4;
  if (runtime_->devices() < static_cast<int>(n)) GTEST_SKIP() << "needs four devices";
  run_on_hosts(n, 2, [](Rank& rank) {
    for (size_t count : {3, 20000})
      every_call(
          rank.comm, rank.on(), [&](const Values& v) { return rank.upload(v); },
          [&](const int32_t* p, size_t size) { return rank.download(p, size); }, count);
    EXPECT_TRUE(rank.comm.error().ok()) << rank.comm.error().to_string();
  });
}

// Two ranks on two hosts that make no collective.
TEST_F(OnDevice, MessagesBetweenTwoHosts) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  run_on_hosts(2, 2, [](Rank& rank) {
    const uint32_t other = 1 - rank.comm.rank();
    for (size_t count : {100, 300000}) {
      int32_t* x = rank.upload(Values(count, static_cast<int32_t>(rank.comm.rank() + count)));
      int32_t* y = rank.upload(Values(count));
      ASSERT_TRUE(rank.comm.group_start().ok());
      EXPECT_TRUE(rank.on().recv(y, count, DType::int32, other).ok());
      EXPECT_TRUE(rank.on().send(x, count, DType::int32, other).ok());
      ASSERT_TRUE(rank.comm.group_end().ok());
      EXPECT_EQ(rank.download(y, count), Values(count, static_cast<int32_t>(other + count)));
    }
    EXPECT_TRUE(rank.comm.error().ok()) << rank.comm.error().to_string();
  });
}

// A root may be through, and end, before the others have begun: its proxy hands over what it wrote.
TEST_F(OnDevice, ARankOnAnotherHostMayEndEarly) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  run_on_hosts(2, 2, [](Rank& rank) {
    int32_t* x = rank.upload(Values(100, rank.comm.rank() == 0 ? 7 : 0));
    ASSERT_TRUE(rank.on().all_reduce(x, x, 100, DType::int32, ReduceOp::max).ok());
    EXPECT_EQ(rank.download(x, 100), Values(100, 7));
    if (rank.comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    int32_t* y = rank.upload(Values(100, rank.comm.rank() == 0 ? 9 : 0));
    ASSERT_TRUE(rank.on().broadcast(y, y, 100, DType::int32, 0).ok());
    EXPECT_EQ(rank.download(y, 100), Values(100, 9));
  });
}

// A kernel waits for a rank on another host, which gives up.
TEST_F(OnDevice, AbortReachesOtherHosts) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  run_on_hosts(2, 2, [](Rank& rank) {
    int32_t* x = rank.upload(Values(100, 1));
    ASSERT_TRUE(rank.on().all_reduce(x, x, 100, DType::int32, ReduceOp::sum).ok());
    EXPECT_EQ(rank.download(x, 100), Values(100, 2));
    if (rank.comm.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      return rank.comm.abort("enough");
    }
    static_cast<void>(rank.on().all_reduce(x, x, 100, DType::int32, ReduceOp::sum));
    EXPECT_EQ(rank.driver.stream_synchronize(rank.stream), 0);
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (rank.comm.error().ok() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const std::string text = rank.comm.error().to_string();
    EXPECT_NE(text.find("rank 1"), std::string::npos) << text;
  });
}

// The proxy's connection breaks under a kernel, while the ranks and their other connections are
// well: these carry far fewer messages.
TEST_F(OnDevice, ABrokenConnectionOfTheProxyIsAnErrorThatNamesThePeer) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  run_on_hosts(
      2, 2,
      [](Rank& rank) {
        int32_t* x = rank.upload(Values(100, 1));
        Status status;
        for (int call = 0; call < 2000 && status.ok(); ++call) {
          status = rank.on().all_reduce(x, x, 100, DType::int32, ReduceOp::max);
          EXPECT_EQ(rank.driver.stream_synchronize(rank.stream), 0);
          if (status.ok()) status = rank.comm.error();
        }
        EXPECT_EQ(status.code(), Code::remote_error) << status.to_string();
        EXPECT_NE(status.to_string().find("rank 0: the connection to peer 1"), std::string::npos)
            << status.to_string();
      },
      "reset:after=100,rank=0");
}

TEST_F(OnDevice, EveryCallOnOneDeviceIsStaged) {
  run(2, 1, [](Rank& rank) {
    every_call(
        rank.comm, rank.on(), [&](const Values& v) { return rank.upload(v); },
        [&](const int32_t* p, size_t n) { return rank.download(p, n); }, 500);
    // Host buffers in between.
    int32_t x = 1;
    EXPECT_TRUE(rank.comm.all_reduce(&x, &x, 1, DType::int32, ReduceOp::sum).ok());
    EXPECT_EQ(x, 2);
  });
}

TEST_F(OnDevice, StreamsFollowEachOther) {
  run(2, std::min(2, runtime_->devices()), [](Rank& rank) {
    Rank other(rank.driver, rank.comm);
    int32_t* x = rank.upload(Values(1000, 1));
    for (int turn = 0; turn < 4; ++turn) {
      ASSERT_TRUE(rank.on().all_reduce(x, x, 1000, DType::int32, ReduceOp::sum).ok());
      ASSERT_TRUE(other.on().after(rank.stream).ok());
      ASSERT_TRUE(other.on().all_reduce(x, x, 1000, DType::int32, ReduceOp::sum).ok());
      ASSERT_TRUE(rank.on().after(other.stream).ok());
    }
    EXPECT_EQ(rank.download(x, 1000), Values(1000, 256));
  });
}

TEST_F(OnDevice, BadInputNamesTheBuffer) {
  run(1, 1, [](Rank& rank) {
    int32_t host[4] = {};
    int32_t* x = rank.upload({1, 2, 3, 4});
    Status status = rank.on().all_reduce(host, host, 4, DType::int32, ReduceOp::sum);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find("no device memory"), std::string::npos) << status.message();
    EXPECT_TRUE(rank.on().all_reduce(x, x, 4, DType::int32, ReduceOp::sum).ok());
    status = rank.on().all_reduce(x, x, 1 << 20, DType::int32, ReduceOp::sum);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    status = rank.on().all_reduce(nullptr, x, 4, DType::int32, ReduceOp::sum);
    EXPECT_NE(status.message().find("null"), std::string::npos) << status.message();
    EXPECT_EQ(rank.download(x, 4), (Values{1, 2, 3, 4}));
  });
}

// --- messages whose ends have different kinds of buffers

// What a rank is told within some seconds.
std::string await_error(Communicator& comm) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (comm.error().ok() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return comm.error().to_string();
}

struct Mixed {
  bool host_sends;  // the end on a host buffer
  int number;       // of the message whose ends differ
  bool grouped;     // it is in a group, with another message in the other direction
  bool met;         // after a collective
  size_t count = 64;
};

// Rank 0 has a host buffer at one message where rank 1 has a device buffer; those before it are of
// both kinds in turns.
void mix_messages(Communicator& comm, OnStream on, const Mixed& m,
                  const std::function<int32_t*()>& buffer, const std::function<void()>& passed) {
  const uint32_t me = comm.rank(), other = 1 - me;
  const bool sends = (me == 0) == m.host_sends;
  std::vector<int32_t> host(m.count), back(m.count);
  int32_t* device = buffer();
  int32_t* device_back = buffer();
  const auto message = [&](bool on_host, bool out, int32_t* there, std::vector<int32_t>& here) {
    if (on_host && out) return comm.send(here.data(), m.count, DType::int32, other);
    if (on_host) return comm.recv(here.data(), m.count, DType::int32, other);
    if (out) return on.send(there, m.count, DType::int32, other);
    return on.recv(there, m.count, DType::int32, other);
  };
  if (m.met) {
    ASSERT_TRUE(on.all_reduce(device, device, m.count, DType::int32, ReduceOp::max).ok());
    passed();
  }
  for (int k = 1; k < m.number; ++k) {
    const Status status = message(k % 2 == 0, sends, device, host);
    ASSERT_TRUE(status.ok()) << status.to_string();
    passed();
  }
  if (m.grouped) {
    ASSERT_TRUE(comm.group_start().ok());
  }
  static_cast<void>(message(me == 0, sends, device, host));
  if (m.grouped) {
    static_cast<void>(message(me == 0, !sends, device_back, back));
    static_cast<void>(comm.group_end());
  }
  const std::string text = await_error(comm);
  passed();
  EXPECT_NE(text.find("invalid_usage"), std::string::npos) << text;
  if (m.number == 1 && !m.met) return;  // found by the meeting of the two, in other words
  const uint32_t from = m.host_sends ? 0 : 1;
  const std::string number = std::to_string(m.number), to = std::to_string(1 - from);
  const std::string want = "rank " + std::to_string(from) + " sends message " + number +
                           " to rank " + to + " from " + (m.host_sends ? "host" : "device") +
                           " memory, but rank " + to + " receives it into " +
                           (m.host_sends ? "device" : "host") + " memory";
  const std::string back_want =  // of a group's other direction
      "rank " + to + " sends message 1 to rank " + std::to_string(from) + " from " +
      (m.host_sends ? "device" : "host") + " memory, but rank " + std::to_string(from) +
      " receives it into " + (m.host_sends ? "host" : "device") + " memory";
  EXPECT_TRUE(text.find(want) != std::string::npos ||
              (m.grouped && text.find(back_want) != std::string::npos))
      << text << "\ninstead of: " << want;
}

TEST_F(OnDevice, HostAndDeviceBuffersAtTheEndsOfAMessage) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  setenv("TUTTI_MULTI_RANK_GPU", "0", 1);
  for (const bool host_sends : {false, true})
    for (const int number : {1, 2, 10})
      for (const bool grouped : {false, true})
        for (const bool met : {false, true}) {
          SCOPED_TRACE(testing::Message() << "host sends " << host_sends << ", message " << number
                                          << ", grouped " << grouped << ", met " << met);
          run(2, 2, [&](Rank& rank) {
            mix_messages(
                rank.comm, rank.on(), {host_sends, number, grouped, met},
                [&] { return rank.upload(Values(64, 1)); },
                [&] { EXPECT_EQ(rank.driver.stream_synchronize(rank.stream), 0); });
          });
        }
}

// Hosts see no memory of each other: ranks hear of tallies by letters.
TEST_F(OnDevice, HostAndDeviceBuffersAtTheEndsOfAMessageBetweenHosts) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  for (const bool host_sends : {false, true})
    for (const int number : {2, 10})
      run_on_hosts(2, 2, [&](Rank& rank) {
        // A host sends more than may lie on the way: it waits, and tells meanwhile.
        mix_messages(
            rank.comm, rank.on(), {host_sends, number, false, true, 1 << 20},
            [&] { return rank.upload(Values(1 << 20, 1)); },
            [&] { EXPECT_EQ(rank.driver.stream_synchronize(rank.stream), 0); });
      });
}

// One of a random program's messages.
struct Planned {
  uint32_t from, to;
  bool on_host;
  size_t count;
  int32_t value;
};

// Ranks that make the same messages, late or early, of both kinds, in groups that run in any order,
// are never accused.
TEST_F(OnDevice, ConsistentMessagesOfBothKindsAreNeverAccused) {
  constexpr uint32_t n = 3;
  if (runtime_->devices() < static_cast<int>(n)) GTEST_SKIP() << "needs three devices";
  setenv("TUTTI_MULTI_RANK_GPU", "0", 1);
  std::mt19937 random(11);
  std::vector<std::vector<Planned>> groups;
  for (int g = 0; g < 80; ++g) {
    std::vector<Planned> group;
    for (size_t size = random() % 3 == 0 ? 1 + random() % 6 : 1; size > 0; --size) {
      const uint32_t from = random() % n, to = (from + 1 + random() % (n - 1)) % n;
      group.push_back({from, to, random() % 2 == 0, 1 + random() % 3000,
                       static_cast<int32_t>(random() % 1000)});
    }
    groups.push_back(group);
  }
  run(n, static_cast<int>(n), [&](Rank& rank) {
    Communicator& comm = rank.comm;
    std::mt19937 own(comm.rank());
    for (std::vector<Planned> group : groups) {
      // Where anybody waits, some of the others come late.
      if (own() % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(own() % 20));
      const bool together = group.size() > 1;
      std::erase_if(group,
                    [&](const Planned& p) { return p.from != comm.rank() && p.to != comm.rank(); });
      if (own() % 2 == 0)
        std::stable_partition(group.begin(), group.end(),
                              [](const Planned& p) { return p.on_host; });
      std::vector<Values> hosts(group.size());
      std::vector<int32_t*> devices(group.size());
      for (size_t i = 0; i < group.size(); ++i) {
        const Planned& p = group[i];
        hosts[i] = Values(p.count, p.from == comm.rank() ? p.value : -1);
        if (!p.on_host) devices[i] = rank.upload(hosts[i]);
      }
      if (together) {
        ASSERT_TRUE(comm.group_start().ok());
      }
      for (size_t i = 0; i < group.size(); ++i) {
        const Planned& p = group[i];
        const bool sends = p.from == comm.rank();
        const Status status =
            p.on_host ? (sends ? comm.send(hosts[i].data(), p.count, DType::int32, p.to)
                               : comm.recv(hosts[i].data(), p.count, DType::int32, p.from))
                      : (sends ? rank.on().send(devices[i], p.count, DType::int32, p.to)
                               : rank.on().recv(devices[i], p.count, DType::int32, p.from));
        ASSERT_TRUE(status.ok()) << status.to_string();
      }
      if (together) {
        const Status status = comm.group_end();
        ASSERT_TRUE(status.ok()) << status.to_string();
      }
      // Calls of one kind come after those of the other.
      for (size_t i = 0; i < group.size(); ++i) {
        const Values got = group[i].on_host ? hosts[i] : rank.download(devices[i], group[i].count);
        ASSERT_EQ(got, Values(group[i].count, group[i].value));
      }
      ASSERT_TRUE(comm.error().ok()) << comm.error().to_string();
    }
  });
}

// A graph's messages are counted by nobody: the pair is no longer compared, and not accused.
TEST_F(OnDevice, CapturedMessagesAreNotCompared) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  setenv("TUTTI_MULTI_RANK_GPU", "0", 1);
  run(2, 2, [&](Rank& rank) {
    const bool sends = rank.comm.rank() == 0;
    int32_t* x = rank.upload(Values(100, sends ? 5 : 0));
    const auto message = [&] {
      return sends ? rank.on().send(x, 100, DType::int32, 1)
                   : rank.on().recv(x, 100, DType::int32, 0);
    };
    ASSERT_TRUE(message().ok());
    ASSERT_EQ(rank.driver.stream_synchronize(rank.stream), 0);
    constexpr int k_replays = 3;
    if (sends) {  // three times by a graph, which the other end takes one by one
      Graph graph = nullptr;
      GraphExec exec = nullptr;
      ASSERT_EQ(rank.driver.stream_begin_capture(rank.stream, k_capture_thread_local), 0);
      ASSERT_TRUE(message().ok());
      ASSERT_EQ(rank.driver.stream_end_capture(rank.stream, &graph), 0);
      ASSERT_EQ(rank.driver.graph_instantiate(&exec, graph, 0), 0);
      for (int i = 0; i < k_replays; ++i) ASSERT_EQ(rank.driver.graph_launch(exec, rank.stream), 0);
      ASSERT_EQ(rank.driver.stream_synchronize(rank.stream), 0);
      rank.driver.graph_exec_destroy(exec);
      rank.driver.graph_destroy(graph);
    } else {
      for (int i = 0; i < k_replays; ++i) ASSERT_TRUE(message().ok());
      EXPECT_EQ(rank.download(x, 100), Values(100, 5));
    }
    // So much that it waits for the other end, for long enough to look: which has more messages on
    // devices by then, and fewer on the host.
    Values y(1 << 20, sends ? 9 : 0);
    if (!sends) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const Status status = sends ? rank.comm.send(y.data(), y.size(), DType::int32, 1)
                                : rank.comm.recv(y.data(), y.size(), DType::int32, 0);
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(y, Values(1 << 20, 9));
    EXPECT_TRUE(rank.comm.error().ok()) << rank.comm.error().to_string();
  });
}

}  // namespace
}  // namespace tutti::cuda
