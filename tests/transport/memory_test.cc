// mem_alloc segments and the memfds below them.
#include "transports/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "tutti/communicator.h"

namespace tutti {
namespace {

// Runs `body` in a child and expects it to return true: for what must not touch this process.
void in_child(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(body() ? 0 : 1);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(MemAlloc, IsZeroedAlignedAndFound) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{5000}, size_t{5} << 20}) {
    Status why;
    auto* memory = static_cast<std::byte*>(mem_alloc(bytes, &why));
    ASSERT_NE(memory, nullptr) << why.to_string();
    EXPECT_TRUE(why.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 4096, 0u);
    EXPECT_TRUE(std::all_of(memory, memory + bytes, [](std::byte b) { return b == std::byte{0}; }));
    std::fill(memory, memory + bytes, std::byte{1});

    auto& registry = SegmentRegistry::instance();
    auto segment = registry.find(memory, bytes);
    ASSERT_NE(segment, nullptr);
    EXPECT_EQ(segment->base, memory);
    EXPECT_GE(segment->bytes, bytes);
    EXPECT_EQ(registry.find(memory + segment->bytes - 1, 1), segment);
    EXPECT_EQ(registry.find(memory + segment->bytes - 1, 2), nullptr) << "reaches past the end";
    EXPECT_EQ(registry.find(memory + segment->bytes, 0), nullptr) << "the end is outside";
    EXPECT_EQ(registry.find(memory - 1, 1), nullptr);
    EXPECT_TRUE(registry.alive(segment->id));
    const uint64_t before = registry.generation();
    EXPECT_TRUE(mem_free(memory).ok());
    EXPECT_NE(registry.generation(), before);
    EXPECT_EQ(registry.find(memory, 1), nullptr);
    EXPECT_FALSE(registry.alive(segment->id));
  }
}

TEST(MemAlloc, IdsAreNeverUsedAgain) {
  std::vector<uint64_t> ids;
  for (int i = 0; i < 5; ++i) {
    void* memory = mem_alloc(100);
    ids.push_back(SegmentRegistry::instance().find(memory, 1)->id);
    ASSERT_TRUE(mem_free(memory).ok());
  }
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
  EXPECT_NE(ids[0], 0u);
}

TEST(MemAlloc, RefusesForeignPointers) {
  int local = 0;
  EXPECT_EQ(mem_free(&local).code(), Code::invalid_argument);
  EXPECT_EQ(mem_free(nullptr).code(), Code::invalid_argument);
  auto* memory = static_cast<std::byte*>(mem_alloc(10000));
  EXPECT_EQ(mem_free(memory + 4096).code(), Code::invalid_argument) << "not the start";
  EXPECT_TRUE(mem_free(memory).ok());
  EXPECT_EQ(mem_free(memory).code(), Code::invalid_argument) << "twice";
}

TEST(MemAlloc, ImpossibleSizesAreAnError) {
  Status why;
  EXPECT_EQ(mem_alloc(SIZE_MAX, &why), nullptr);
  EXPECT_EQ(why.code(), Code::system_error);
  EXPECT_EQ(mem_alloc(size_t{1} << 60, &why), nullptr);
  EXPECT_EQ(why.code(), Code::system_error);
  EXPECT_NE(why.message().find(std::to_string(size_t{1} << 60)), std::string::npos)
      << why.to_string();
}

// A full /dev/shm as a memfd meets it: the limit is an error with the size, not a signal.
TEST(MemAlloc, FileSizeLimitIsAnError) {
  in_child([] {
    const rlimit limit{1 << 20, 1 << 20};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return false;
    Status why;
    void* small = mem_alloc(1 << 19, &why);
    void* large = mem_alloc(2 << 20, &why);
    return small != nullptr && large == nullptr && why.code() == Code::system_error &&
           why.message().find("2097152 bytes") != std::string::npos;
  });
}

TEST(MemAlloc, AddressSpaceLimitIsAnError) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers need the address space themselves";
#endif
  in_child([] {
    const rlimit limit{size_t{1} << 30, size_t{1} << 30};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return false;
    Status why;
    return mem_alloc(size_t{2} << 30, &why) == nullptr && why.code() == Code::system_error;
  });
}

TEST(MemAlloc, ThreadsMayAllocateAtOnce) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 50; ++i) {
        auto* memory = static_cast<std::byte*>(mem_alloc(8192));
        ASSERT_NE(memory, nullptr);
        EXPECT_EQ(SegmentRegistry::instance().find(memory + 100, 8)->base, memory);
        EXPECT_TRUE(mem_free(memory).ok());
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(Memfd, IsSealedAgainstShrinkingAndReservedBeforeUse) {
  auto fd = make_memfd("test");
  ASSERT_TRUE(fd.ok()) << fd.status().to_string();
  ASSERT_TRUE(grow_memfd(fd->get(), 1 << 20).ok());
  EXPECT_NE(::ftruncate(fd->get(), 4096), 0) << "a peer must not be able to shrink it";
  ASSERT_TRUE(reserve_memfd(fd->get(), 8192, 4096).ok());
  auto writer = map_memfd(fd->get(), 8192, 4096, true);
  auto reader = map_memfd(fd->get(), 8192, 4096, false);
  ASSERT_TRUE(writer.ok() && reader.ok());
  **writer = std::byte{42};
  EXPECT_EQ(**reader, std::byte{42});
  ::munmap(*writer, 4096);
  ::munmap(*reader, 4096);
}

TEST(Memfd, ErrorsNameTheSize) {
  auto fd = make_memfd("test");
  ASSERT_TRUE(fd.ok());
  EXPECT_NE(grow_memfd(-1, 12345).message().find("12345"), std::string::npos);
  EXPECT_NE(reserve_memfd(-1, 0, 54321).message().find("54321"), std::string::npos);
  EXPECT_EQ(map_memfd(-1, 0, 4096, false).status().code(), Code::system_error);
}

}  // namespace
}  // namespace tutti
