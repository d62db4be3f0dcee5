// The collectives between real processes, over shared memory (with and without process_vm, private
// and mem_alloc buffers) and over TCP, with data whose results are exactly predictable.
#include <fmt/format.h>

#include "tests/process/processes.h"

namespace tutti::processes {
namespace {

int64_t element(Rank rank, size_t i) { return static_cast<int64_t>(i % 97) * (rank + 1) + rank; }

// Sum over ranks of element(rank, i).
int64_t sum(uint32_t n, size_t i) {
  int64_t total = 0;
  for (Rank r = 0; r < n; ++r) total += element(r, i);
  return total;
}

std::string all_reduce(Communicator& c, int64_t* send, int64_t* recv, size_t count) {
  for (size_t i = 0; i < count; ++i) send[i] = element(c.rank(), i);
  const Status s = c.all_reduce(send, recv, count, DType::int64, ReduceOp::sum);
  if (!s.ok()) return s.to_string();
  for (size_t i = 0; i < count; ++i)
    if (recv[i] != sum(c.ranks(), i)) return fmt::format("all_reduce of {}: wrong at {}", count, i);
  return "";
}

std::string rest(Communicator& c, size_t count) {
  const uint32_t n = c.ranks();
  const Rank me = c.rank();
  std::vector<int64_t> big(n * count), small(count);
  auto fill = [&](std::vector<int64_t>& v) {
    for (size_t i = 0; i < v.size(); ++i) v[i] = element(me, i);
  };
  auto wrong = [&](const char* what) { return fmt::format("{} of {} is wrong", what, count); };
  fill(small);
  if (Status s = c.all_gather(small.data(), big.data(), count, DType::int64); !s.ok())
    return s.to_string();
  for (Rank r = 0; r < n; ++r)
    for (size_t i = 0; i < count; ++i)
      if (big[r * count + i] != element(r, i)) return wrong("all_gather");
  fill(big);
  if (Status s = c.reduce_scatter(big.data(), small.data(), count, DType::int64, ReduceOp::sum);
      !s.ok())
    return s.to_string();
  for (size_t i = 0; i < count; ++i)
    if (small[i] != sum(n, me * count + i)) return wrong("reduce_scatter");
  std::vector<int64_t> out(n * count);
  if (Status s = c.all_to_all(big.data(), out.data(), count, DType::int64); !s.ok())
    return s.to_string();
  for (Rank r = 0; r < n; ++r)
    for (size_t i = 0; i < count; ++i)
      if (out[r * count + i] != element(r, me * count + i)) return wrong("all_to_all");
  for (Rank root = 0; root < n; root += 2) {
    fill(small);
    if (Status s = c.broadcast(small.data(), small.data(), count, DType::int64, root); !s.ok())
      return s.to_string();
    for (size_t i = 0; i < count; ++i)
      if (small[i] != element(root, i)) return wrong("broadcast");
    std::vector<int64_t> mine(count), reduced(count);
    fill(mine);
    if (Status s = c.reduce(mine.data(), reduced.data(), count, DType::int64, ReduceOp::sum, root);
        !s.ok())
      return s.to_string();
    for (size_t i = 0; i < count && me == root; ++i)
      if (reduced[i] != sum(n, i)) return wrong("reduce");
    if (Status s = c.gather(mine.data(), out.data(), count, DType::int64, root); !s.ok())
      return s.to_string();
    for (size_t i = 0; i < n * count && me == root; ++i)
      if (out[i] != element(static_cast<Rank>(i / count), i % count)) return wrong("gather");
    if (Status s = c.scatter(out.data(), small.data(), count, DType::int64, root); !s.ok())
      return s.to_string();
    for (size_t i = 0; i < count; ++i)
      if (small[i] != element(me, i)) return wrong("scatter");
  }
  return c.barrier().ok() ? "" : "barrier failed";
}

struct Path {
  std::string title;
  Config config;
  uint32_t ranks;
};
void PrintTo(const Path& p, std::ostream* out) { *out << p.title; }

std::vector<Path> paths() {
  Config no_vm = over("shm");
  no_vm.process_vm = false;
  Config vm = over("shm");
  vm.process_vm_bytes = 64 * 1024;
  Config small_slots = over("shm");
  small_slots.slot_bytes = 4096;
  Config two_connections = over("tcp");
  two_connections.socket_connections = 2;
  return {{"shm2", over("shm"), 2},
          {"shm5", over("shm"), 5},
          {"shm3_no_process_vm", no_vm, 3},
          {"shm3_process_vm", vm, 3},
          {"shm4_small_slots", small_slots, 4},
          {"tcp2", over("tcp"), 2},
          {"tcp5", over("tcp"), 5},
          {"tcp3_two_connections", two_connections, 3}};
}

class Between : public ::testing::TestWithParam<Path> {};

TEST_P(Between, ProcessesAllCollectivesAreExact) {
  Job job(GetParam().ranks, GetParam().config, [](Communicator& c, Board&) -> std::string {
    for (size_t count : {0u, 1u, 6u, 100u, 3000u, 50000u, 400000u}) {
      std::vector<int64_t> send(count + 1), recv(count + 1);
      for (int64_t* out : {recv.data(), send.data()})
        if (std::string s = all_reduce(c, send.data(), out, count); !s.empty()) return s;
      if (count <= 50000)
        if (std::string s = rest(c, count); !s.empty()) return s;
    }
    return "";
  });
  job.expect_all_well();
}

TEST_P(Between, SharedMemorySegmentsMixWithPrivateBuffers) {
  Job job(GetParam().ranks, GetParam().config, [](Communicator& c, Board&) -> std::string {
    constexpr size_t k_count = 300000;
    Status error;
    auto* segment = static_cast<int64_t*>(mem_alloc(k_count * sizeof(int64_t), &error));
    if (segment == nullptr) return error.to_string();
    std::vector<int64_t> own(k_count);
    for (int turn = 0; turn < 3; ++turn) {
      // All segments, then some, then none.
      int64_t* buffer = turn == 0 || (turn == 1 && c.rank() % 2 == 0) ? segment : own.data();
      for (size_t count : {1000u, 20000u, 300000u})
        if (std::string s = all_reduce(c, buffer, buffer, count); !s.empty()) return s;
    }
    const Status freed = mem_free(segment);
    return freed.ok() ? std::string() : freed.to_string();
  });
  job.expect_all_well();
}

INSTANTIATE_TEST_SUITE_P(Paths, Between, ::testing::ValuesIn(paths()),
                         [](const auto& scene) { return scene.param.title; });

}  // namespace
}  // namespace tutti::processes
