// Programs that know nothing of tutti, and how they come to load it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "tests/nccl/shell.h"

namespace tutti::nccl_test {
namespace {

std::string with_library() { return "LD_LIBRARY_PATH=" + std::string(TUTTI_BINARY_DIR) + "/lib "; }
// A library of NCCL's name that is not NCCL: who loads it has not been served.
std::string foreign() { return std::string(TUTTI_BINARY_DIR) + "/lib/foreign/libnccl.so.2"; }

TEST(Clients, InCAndCppAgainstOurHeader) {
  for (const char* program : {"nccl_client_c", "nccl_client_cpp"}) {
    const Outcome outcome = shell(with_library() + k_bin + program);
    EXPECT_EQ(outcome.code, 0) << outcome.text;
    EXPECT_EQ(outcome.text, "ok 22809\n");
  }
}

// Built against NVIDIA's header where there is one; run with this library.
TEST(Clients, AgainstNvidiasHeader) {
  const std::string program = k_bin + "nccl_client_foreign";
  if (::access(program.c_str(), X_OK) != 0) GTEST_SKIP() << "no nccl.h of NVIDIA here";
  const Outcome outcome = shell("LD_PRELOAD=" + k_library + " " + program);
  EXPECT_EQ(outcome.text, "ok 22809\n");
}

TEST(Clients, TheReportedVersionCanBeChosen) {
  for (auto [given, reported] :
       {std::pair{"23007", "23007"}, {"2.31.2", "23102"}, {"no", "22809"}}) {
    const Outcome outcome =
        shell(with_library() + "TUTTI_REPORT_VERSION=" + given + " " + k_bin + "nccl_client_c");
    EXPECT_EQ(outcome.text, std::string("ok ") + reported + "\n");
  }
}

// All ranks ask for an id themselves; NCCL_COMM_ID makes it the same.
TEST(Clients, ProcessesMeetByNcclCommId) {
  const std::string port = std::to_string(20000 + ::getpid() % 20000);
  const Outcome outcome = shell(
      "for r in 0 1 2; do NCCL_COMM_ID=127.0.0.1:" + port + " NCCL_SOCKET_IFNAME=lo RANK=$r " +
      "WORLD_SIZE=3 " + with_library() + "timeout 60 " + k_bin + "nccl_client_c & done; wait");
  EXPECT_EQ(outcome.text, "ok 22809\nok 22809\nok 22809\n");
}

TEST(Python, CtypesAsVllmDoes) {
  const Outcome outcome =
      shell("timeout 100 python3 " + k_sources + "ctypes_client.py " + k_library);
  EXPECT_EQ(outcome.code, 0) << outcome.text;
}

TEST(Audit, LoadsByPathAreServed) {
  const std::string audit = std::string(TUTTI_BINARY_DIR) + "/lib/libtutti_nccl_audit.so";
  Outcome outcome = shell(k_bin + "nccl_path_client " + foreign());
  EXPECT_EQ(outcome.text, "1 " + foreign() + "\n");
  outcome = shell("LD_AUDIT=" + audit + " " + k_bin + "nccl_path_client " + foreign());
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_NE(outcome.text.find("22809 "), std::string::npos) << outcome.text;
  EXPECT_NE(outcome.text.find("/lib/libnccl.so.2"), std::string::npos) << outcome.text;
  outcome = shell("LD_AUDIT=" + audit + " " + k_bin + "nccl_path_client /nowhere/libnccl.so.2");
  EXPECT_NE(outcome.text.find("22809 "), std::string::npos) << outcome.text;
}

TEST(Run, NcclServesEveryWayOfLoading) {
  const std::string run = k_bin + "run_program run --nccl ";
  Outcome outcome = shell(run + "-- " + k_bin + "nccl_path_client " + foreign());
  EXPECT_NE(outcome.text.find("22809 "), std::string::npos) << outcome.text;
  outcome = shell(run + "-- " + k_bin + "nccl_path_client libnccl.so.2");
  EXPECT_NE(outcome.text.find("22809 "), std::string::npos) << outcome.text;
  outcome = shell(run + "-n 2 -- sh -c 'echo $VLLM_NCCL_SO_PATH'");
  EXPECT_NE(outcome.text.find("/lib/libnccl.so.2\n"), std::string::npos) << outcome.text;
  outcome = shell("LD_PRELOAD= " + run + "-- " + k_bin + "nccl_client_c");
  EXPECT_EQ(outcome.text, "ok 22809\n");
}

TEST(Log, SaysWhatIsIgnored) {
  const Outcome outcome = shell(with_library() +
                                "NCCL_DEBUG=INFO NCCL_IB_HCA=mlx5 NCCL_FOO=1 "
                                "NCCL_ALGO=Ring TUTTI_SPINN=1 " +
                                k_bin + "nccl_client_c");
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  for (const char* line :
       {"NCCL INFO NCCL_IB_HCA set by environment to mlx5: ignored, there is no InfiniBand",
        "NCCL INFO NCCL_FOO set by environment to 1: ignored, unknown to tutti",
        "NCCL INFO NCCL_ALGO set by environment to Ring\n", "TUTTI_SPINN is not a setting"})
    EXPECT_NE(outcome.text.find(line), std::string::npos) << line << " is not in\n" << outcome.text;
  const Outcome quiet = shell(with_library() + k_bin + "nccl_client_c");
  EXPECT_EQ(quiet.text, "ok 22809\n");
}

}  // namespace
}  // namespace tutti::nccl_test
