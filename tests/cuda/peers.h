// Ranks as PeerWorlds over one fake driver. Every rank has a runtime of its own, so that to each
// other they are other processes, and windows lie at other addresses than their owners see.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <barrier>
#include <chrono>
#include <optional>
#include <thread>

#include "src/algorithms/algorithms.h"
#include "src/cuda/peer_world.h"
#include "tests/cuda/fake_cuda.h"
#include "tests/cuda/oracle.h"
#include "tests/cuda/relay.h"

namespace tutti::cuda {

inline constexpr WindowShape k_small{1, 4, 3, 2, 512, 1024, 3, 512};

class Peers {
 public:
  // Rank r is on device r modulo `devices` (0: one each). Where ranks share one, it takes turns.
  // `hosts` have equal shares of the ranks, one after the other.
  explicit Peers(uint32_t n, bool one_process = false, uint32_t devices = 0, uint32_t hosts = 1)
      : fake(static_cast<int>(devices == 0 ? n : devices)),
        devices_(devices == 0 ? n : devices),
        hosts_(hosts),
        barrier_(n) {
    fake.multiprocessors = 16;
    if (devices_ < n)
      fake.time_slices = testing::TempDir() + "tutti-slices-" + std::to_string(::getpid()) + "-";
    for (uint32_t r = 0; r < n; ++r) {
      runtimes_.push_back(one_process && r > 0 ? runtimes_[0] : fake.runtime());
      device_of_.push_back(*runtimes_[r]->device(ordinal(r)));
      streams.push_back(fake.stream(ordinal(r)));
    }
    all_.resize(n);
  }
  ~Peers() {
    if (testing::Test::HasFailure())  // whatever still waits for another
      for (auto& world : worlds)
        if (world != nullptr) world->abort();
    pass_all();
    end();
    for (uint32_t d = 0; d < devices_ && !fake.time_slices.empty(); ++d)
      ::unlink((fake.time_slices + std::to_string(d)).c_str());
  }

  int ordinal(Rank r) const { return static_cast<int>(r % devices_); }
  uint32_t ranks() const { return static_cast<uint32_t>(streams.size()); }
  uint32_t host_of(Rank r) const { return r * hosts_ / ranks(); }
  // What every rank is told.
  std::vector<Status> make(const WindowShape& shape = k_small) {
    std::vector<Status> told(ranks());
    end();
    worlds.resize(ranks());
    relays.resize(ranks());
    fake.shared_memory = true;  // windows; a file each
    pages_.clear();
    for (Rank r = 0; r < ranks(); ++r) pages_.push_back(hide_page == r ? nullptr : page());
    std::vector<std::thread> threads;
    for (Rank r = 0; r < ranks(); ++r)
      threads.emplace_back([&, r] {
        const auto gather = [&](const void* mine, void* all, size_t bytes) {
          return this->gather(r, mine, all, bytes);
        };
        const auto mine = PeerWorld::describe(*runtimes_[r], *device_of_[r], 1 + host_of(r), blocks,
                                              without_shots != r);
        std::vector<PeerWorld::Member> members(ranks());
        static_cast<void>(gather(&mine, members.data(), sizeof mine));
        EXPECT_EQ(PeerWorld::obstacle(members), "");
        auto made = PeerWorld::make(*runtimes_[r], *device_of_[r], r, members, shape, gather,
                                    devices_ < ranks() ? pages_ : Gates::Pages());
        told[r] = made.status();
        if (made) worlds[r] = std::move(*made);
        if (worlds[r] != nullptr && worlds[r]->mirrors() != nullptr)
          relays[r] =
              std::make_unique<Relay>(r, ranks(), *worlds[r]->mirrors(), network, fault, gather);
      });
    for (std::thread& t : threads) t.join();
    fake.shared_memory = false;
    return told;
  }
  void make_well() {
    for (const Status& status : make()) ASSERT_TRUE(status.ok()) << status.to_string();
  }
  Runtime& runtime(Rank r) { return *runtimes_[r]; }

  std::byte* upload(Rank r, const Bytes& bytes) {
    std::byte* p = fake.allocate(bytes.size() + 1, ordinal(r));
    if (!bytes.empty()) std::memcpy(p, bytes.data(), bytes.size());
    return p;
  }
  void synchronize() {
    for (Stream s : streams) fake.synchronize(s);
  }
  void synchronize_one(Rank r) { fake.synchronize(streams[r]); }
  bool passed(Rank r) const { return fake.driver()->stream_query(streams[r]) == k_success; }
  // As the watch of a communicator does: until all streams have passed.
  void pass_all() {
    for (Rank r = 0; r < ranks(); ++r)
      for (; !passed(r); std::this_thread::sleep_for(std::chrono::milliseconds(1)))
        for (auto& world : worlds)
          if (world != nullptr) world->tend();
  }

  FakeCuda fake;
  uint32_t blocks = 0;            // of a launch, at most; 0: as many as fit
  std::optional<Rank> hide_page;  // nobody sees this one's
  std::optional<Rank> without_shots;
  std::string network = "local";  // between hosts
  std::string fault;              // of it
  std::vector<Stream> streams;
  std::vector<std::unique_ptr<PeerWorld>> worlds;
  std::vector<std::unique_ptr<Relay>> relays;  // where there are several hosts

 private:
  void end() {
    relays.clear();
    worlds.clear();
  }
  Status gather(Rank r, const void* mine, void* all, size_t bytes) {
    all_[r].assign(static_cast<const std::byte*>(mine),
                   static_cast<const std::byte*>(mine) + bytes);
    barrier_.arrive_and_wait();
    for (Rank from = 0; from < ranks(); ++from)
      std::memcpy(static_cast<std::byte*>(all) + from * bytes, all_[from].data(), bytes);
    barrier_.arrive_and_wait();
    return {};
  }

  std::shared_ptr<std::byte> page() const {
    const size_t bytes = Gates::page_bytes(ranks());
    auto* memory = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{64}));
    std::memset(memory, 0, bytes);
    return {memory, [](std::byte* p) { ::operator delete (p, std::align_val_t{64}); }};
  }

  uint32_t devices_, hosts_;
  Gates::Pages pages_;
  std::vector<std::shared_ptr<Runtime>> runtimes_;
  std::vector<Device*> device_of_;
  std::barrier<> barrier_;
  std::vector<Bytes> all_;
};

inline PlanPtr all_reduce_plan(const char* algorithm, uint32_t n, bool in_place) {
  PlanRequest request;
  request.ranks = n;
  request.in_place = in_place;
  return *make_plan(algorithm, request);
}

// Buffers of `count` int32 in place, all of them `value` of the rank.
inline std::vector<std::byte*> numbers(Peers& peers, size_t count,
                                       const std::function<uint32_t(Rank)>& value) {
  std::vector<std::byte*> buffers;
  for (Rank r = 0; r < peers.ranks(); ++r) {
    Bytes bytes(count * 4);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t v = value(r);
      std::memcpy(&bytes[4 * i], &v, 4);
    }
    buffers.push_back(peers.upload(r, bytes));
  }
  return buffers;
}
inline void expect_numbers(const std::byte* buffer, size_t count, uint32_t value) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t got = 0;
    std::memcpy(&got, buffer + 4 * i, 4);
    ASSERT_EQ(got, value) << "element " << i;
  }
}
inline PeerWorld::Call sum_in_place(const PlanPtr& plan, size_t count, std::byte* buffer) {
  return {plan, count, DType::int32, ReduceOp::sum, buffer, buffer, 1, {}};
}

// Two ranks call in turns on streams that know nothing of each other, one of them late.
inline void call_on_two_streams(Peers& peers, size_t count = 3000) {
  peers.make_well();
  const PlanPtr plan = all_reduce_plan("direct_two_shot", 2, true);
  const auto buffers = numbers(peers, count, [](Rank) { return 1; });
  std::vector<Stream> second = {peers.fake.stream(peers.ordinal(0)),
                                peers.fake.stream(peers.ordinal(1))};
  for (int turn = 0; turn < 6; ++turn)
    for (Rank r = 0; r < 2; ++r) {
      const Stream stream = turn % 2 == 0 ? peers.streams[r] : second[r];
      if (turn == static_cast<int>(r))
        peers.fake.driver()->launch_host(
            stream, [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); },
            nullptr);
      ASSERT_TRUE(peers.worlds[r]->launch(sum_in_place(plan, count, buffers[r]), stream).ok());
    }
  for (Stream s : second) peers.fake.synchronize(s);
  peers.synchronize();
  for (std::byte* b : buffers) expect_numbers(b, count, 64);
}

inline void check(Peers& peers, const PlanPtr& plan, uint64_t count, DType dtype, ReduceOp op) {
  const Shape& shape = plan->shape();
  const uint32_t n = shape.ranks;
  const size_t block = count * size_of(dtype);
  const auto cut = peers.worlds[0]->cut(plan, count, dtype);
  if (cut.status().code() == Code::unsupported) return;
  ASSERT_TRUE(cut.ok()) << cut.status().to_string();
  std::vector<Bytes> inputs;
  std::vector<std::byte*> outputs;
  std::vector<PeerWorld::Call> calls;
  for (Rank r = 0; r < n; ++r) {
    inputs.push_back(random_elements(dtype, input_blocks(shape.collective, n) * count, 5 * r + 3));
    Memory m = lay_out(shape.collective, shape.in_place, r, n, block, inputs[r]);
    std::byte* recv = peers.upload(r, m.recv);
    std::byte* send = m.send.empty() ? recv + (m.input - m.recv.data()) : peers.upload(r, m.send);
    outputs.push_back(recv + (m.output - m.recv.data()));
    calls.push_back({plan, count, dtype, op, send, outputs[r], 42, factor_of(op, dtype, r)});
    const Status status = peers.worlds[r]->prepare(plan);
    if (status.code() == Code::unsupported) return;
    ASSERT_TRUE(status.ok()) << status.to_string();
  }
  for (Rank r = 0; r < n; ++r) {
    const Status status = peers.worlds[r]->launch(calls[r], peers.streams[r]);
    ASSERT_TRUE(status.ok()) << status.to_string();
  }
  peers.synchronize();
  const std::vector<Bytes> want = expected(*plan, dtype, op, cut->layout, inputs, block);
  for (Rank r = 0; r < n; ++r) {
    ASSERT_TRUE(peers.worlds[r]->error().ok());
    if (shape.output_chunks(r) == 0) continue;
    ASSERT_EQ(std::memcmp(outputs[r], want[r].data(), want[r].size()), 0)
        << plan->algorithm() << " " << name(shape.collective) << " rank " << r << " of " << n
        << " in place " << shape.in_place << ", " << count << " " << name(dtype) << " " << name(op)
        << " wire " << static_cast<int>(cut->wire) << " workers " << cut->workers << " rounds "
        << cut->layout.rounds();
  }
}

}  // namespace tutti::cuda
