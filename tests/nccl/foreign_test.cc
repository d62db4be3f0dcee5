// A benchmark as others write them (foreign_perf.c), linked with NVIDIA's libraries where they are
// and unchanged: the CUDA runtime, threads and processes, several devices a thread, every way of
// loading.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/nccl/shell.h"

namespace tutti::nccl_test {
namespace {

const std::string k_lib = std::string(TUTTI_BINARY_DIR) + "/lib";
const std::string k_cudart = "LD_LIBRARY_PATH=" + k_lib + "/cudart ";
const std::string k_fine = "# Out of bounds values : 0 OK\n";
const std::string k_perf = "timeout 40 " + k_bin + "nccl_foreign_perf ";

TEST(Foreign, OneThreadManyDevices) {
  EXPECT_EQ(shell(k_cudart + "LD_PRELOAD=" + k_library + " " + k_perf + "1 6 40000").text, k_fine);
}

TEST(Foreign, ThreadsWithDevices) {
  EXPECT_EQ(
      shell("LD_LIBRARY_PATH=" + k_lib + ":" + k_lib + "/cudart " + k_perf + "3 2 40000").text,
      k_fine);
  EXPECT_EQ(shell(k_cudart + "LD_PRELOAD=" + k_library + " " + k_perf + "4 1 4000").text, k_fine);
}

TEST(Foreign, NonBlocking) {
  EXPECT_EQ(
      shell(k_cudart + "NONBLOCKING=1 LD_PRELOAD=" + k_library + " " + k_perf + "2 2 4000").text,
      k_fine);
}

TEST(Foreign, ByAudit) {
  EXPECT_EQ(
      shell(k_cudart + "LD_AUDIT=" + k_lib + "/libtutti_nccl_audit.so " + k_perf + "2 1 4000").text,
      k_fine);
}

TEST(Foreign, ProcessesOverEveryTransport) {
  const std::string id = testing::TempDir() + "foreign_id." + std::to_string(::getpid());
  for (const char* transport : {"", "NCCL_SHM_DISABLE=1 "}) {
    ::unlink(id.c_str());
    const Outcome outcome =
        shell("for r in 0 1 2 3; do ID_FILE=" + id + " RANK=$r WORLD_SIZE=4 " + transport +
              k_cudart + "LD_PRELOAD=" + k_library + " " + k_perf + "1 1 200000 & done; wait");
    EXPECT_EQ(outcome.text, k_fine + k_fine + k_fine + k_fine) << transport;
  }
  ::unlink(id.c_str());
}

TEST(Foreign, UnderTuttiRun) {
  EXPECT_EQ(shell(k_cudart + k_bin + "run_program run --nccl -- " + k_perf + "2 2 4000").text,
            k_fine);
}

}  // namespace
}  // namespace tutti::nccl_test
