// TUTTI_NCCL_FALLBACK: the operations it lists run in another library of NCCL's name, all others
// here.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <sstream>

#include "tests/nccl/shell.h"

namespace tutti::nccl_test {
namespace {

const std::string k_fake = std::string(TUTTI_BINARY_DIR) + "/lib/fake/libnccl.so.2";
const std::string k_partial = std::string(TUTTI_BINARY_DIR) + "/lib/fake_partial/libnccl.so.2";
const std::string k_here = "LD_LIBRARY_PATH=" + std::string(TUTTI_BINARY_DIR) + "/lib ";

// How often each function of the fake library was called.
using Calls = std::map<std::string, int>;
struct Ran {
  Outcome outcome;
  Calls calls;
};

Ran run(const std::string& environment, const std::string& command) {
  const std::string log = testing::TempDir() + "fake_nccl." + std::to_string(::getpid());
  ::unlink(log.c_str());
  Ran made;
  made.outcome = shell(environment + " FAKE_NCCL_LOG=" + log + " timeout 60 " + command);
  std::ifstream file(log);
  for (std::string line; std::getline(file, line);) ++made.calls[line.substr(0, line.rfind(' '))];
  ::unlink(log.c_str());
  return made;
}

std::string list(const std::string& operations, const std::string& library = k_fake) {
  return "TUTTI_NCCL_FALLBACK='" + operations + "' TUTTI_NCCL_REAL=" + library + " ";
}
const std::string k_client = k_bin + "nccl_fallback_client";

// What three ranks call when everything goes to the other library.
Calls everything() {
  return {{"ncclGetUniqueId", 1},     {"ncclCommInitRank", 3},  {"ncclCommDestroy", 3},
          {"ncclAllReduce", 9},       {"ncclReduceScatter", 3}, {"ncclReduce", 3},
          {"ncclAllGather", 3},       {"ncclAlltoAll", 3},      {"ncclBroadcast", 3},
          {"ncclGather", 3},          {"ncclScatter", 3},       {"ncclSend on stream 5", 3},
          {"ncclRecv on stream 5", 3}};
}

TEST(Fallback, NothingWithoutTheVariable) {
  const Ran made = run(k_here + "TUTTI_NCCL_REAL=" + k_fake, k_client);
  EXPECT_EQ(made.outcome.text, "ok\n");
  EXPECT_EQ(made.calls, Calls());
}

TEST(Fallback, ListedOperationsOfOneThread) {
  Ran made = run(k_here + list("*"), k_client);
  EXPECT_EQ(made.outcome.text, "ok\n");
  EXPECT_EQ(made.calls, everything());
  made = run(k_here + list("all_to_all"), k_client);
  EXPECT_EQ(made.outcome.text, "ok\n");
  EXPECT_EQ(made.calls, Calls({{"ncclGetUniqueId", 1},
                               {"ncclCommInitRank", 3},
                               {"ncclAlltoAll", 3},
                               {"ncclCommDestroy", 3}}));
}

TEST(Fallback, ListedOperationsOfProcesses) {
  const std::string port = std::to_string(20000 + ::getpid() % 20000);
  const std::string ranks = "sh -c 'for r in 0 1 2; do NCCL_COMM_ID=127.0.0.1:" + port +
                            " NCCL_SOCKET_IFNAME=lo RANK=$r WORLD_SIZE=3 " + k_client +
                            " & done; wait'";
  const Ran made = run(k_here + list("all_to_all,send,recv"), ranks);
  EXPECT_EQ(made.outcome.text, "ok\nok\nok\n");
  EXPECT_EQ(made.calls, Calls({{"ncclGetUniqueId", 1},
                               {"ncclCommInitRank", 3},
                               {"ncclAlltoAll", 3},
                               {"ncclSend on stream 5", 3},
                               {"ncclRecv on stream 5", 3},
                               {"ncclCommDestroy", 3}}));
}

// However tutti itself came to be loaded, the other library is found and keeps its own names.
TEST(Fallback, BesideEveryWayOfLoading) {
  const std::string audit = std::string(TUTTI_BINARY_DIR) + "/lib/libtutti_nccl_audit.so";
  for (const std::string& way : {"LD_PRELOAD=" + k_library + " ", "LD_AUDIT=" + audit + " "}) {
    const Ran made = run(way + k_here + list("*"), k_client);
    EXPECT_EQ(made.outcome.text, "ok\n") << way;
    EXPECT_EQ(made.calls, everything()) << way;
  }
  const Ran made = run(list("*"), k_bin + "run_program run --nccl -- " + k_client);
  EXPECT_EQ(made.outcome.text, "ok\n");
  EXPECT_EQ(made.calls, everything());
}

// Without TUTTI_NCCL_REAL the first on LD_LIBRARY_PATH that is not tutti.
TEST(Fallback, IsSearchedFor) {
  const std::string folders =
      std::string(TUTTI_BINARY_DIR) + "/lib:" + TUTTI_BINARY_DIR + "/lib/fake";
  const Ran made = run("LD_LIBRARY_PATH=" + folders + " TUTTI_NCCL_FALLBACK=broadcast ", k_client);
  EXPECT_EQ(made.outcome.text, "ok\n");
  EXPECT_EQ(made.calls.at("ncclBroadcast"), 3);
}

TEST(Fallback, WhatIsWrongIsSaid) {
  const std::string copy = testing::TempDir() + "another_build." + std::to_string(::getpid());
  ASSERT_EQ(shell("cp " + k_library + " " + copy).code, 0);
  const std::pair<std::string, std::string> cases[] = {
      {list("all_reduce", "/nowhere/libnccl.so.2"),
       "the real NCCL at /nowhere/libnccl.so.2: No such file"},
      {list("all_reduce", k_library), "that is tutti itself"},
      {list("all_reduce", copy), "that is tutti itself, or another build of it"},
      {list("all_reduce", "/etc/passwd"), "the real NCCL at /etc/passwd: "},
      {list("all_reduce", std::string(TUTTI_BINARY_DIR) + "/lib/libtutti.so"),
       "lacks ncclGetVersion"},
      {list("all_to_all", k_partial), k_partial + " (version 22800) lacks ncclAlltoAll"},
      {list("all_reduce,alltoall"), "TUTTI_NCCL_FALLBACK: \"alltoall\" is none of all_reduce, "},
      {list("send"), "TUTTI_NCCL_FALLBACK: send and recv go together"},
      {"FAKE_NCCL_BROKEN=1 " + list("all_reduce"),
       k_fake + ": ncclGetUniqueId returned 1 (a fake error): the fake says why"},
      {"FAKE_NCCL_BROKEN=1 " + list("send,recv"), "ncclGetUniqueId returned 1"},
  };
  for (const auto& [environment, sentence] : cases) {
    const Ran made = run(k_here + environment, k_client);
    EXPECT_EQ(made.outcome.code, 1) << environment;
    EXPECT_NE(made.outcome.text.find(sentence), std::string::npos) << environment << "\n"
                                                                   << made.outcome.text;
  }
  ::unlink(copy.c_str());
}

// Rank 2 has another list: an error on all that names a rank, not a hang.
TEST(Fallback, ListsThatDifferAreNamed) {
  const std::string port = std::to_string(20000 + (::getpid() + 7) % 20000);
  const Ran made =
      run(k_here + "TUTTI_TIMEOUT=20 TUTTI_NCCL_REAL=" + k_fake,
          "sh -c 'for r in 0 1 2; do F=\"send,recv\"; [ $r = 2 ] && F=\"send,recv,broadcast\"; "
          "TUTTI_NCCL_FALLBACK=$F NCCL_COMM_ID=127.0.0.1:" +
              port + " NCCL_SOCKET_IFNAME=lo RANK=$r WORLD_SIZE=3 " + k_client + " & done; wait'");
  size_t said = 0;
  for (size_t at = 0; (at = made.outcome.text.find("TUTTI_NCCL_FALLBACK is another list on rank",
                                                   at)) != std::string::npos;
       ++at)
    ++said;
  EXPECT_EQ(said, 3u) << made.outcome.text;
  EXPECT_EQ(made.calls.count("ncclCommInitRank"), 0u);
}

// NVIDIA's library where there is one and no GPU: found, loaded, and its refusal told.
TEST(Fallback, ToNvidiasLibrary) {
  const std::string real = "/usr/local/cuda/lib64/libnccl.so.2";
  if (::access(real.c_str(), R_OK) != 0) GTEST_SKIP() << "no " << real;
  if (::access("/dev/nvidiactl", F_OK) == 0)
    GTEST_SKIP() << "there is a GPU; the client has host memory";
  const Ran made = run(k_here + list("all_reduce", real), k_client);
  EXPECT_EQ(made.outcome.code, 1);
  EXPECT_NE(made.outcome.text.find("the real NCCL at " + real + ": nccl"), std::string::npos)
      << made.outcome.text;
}

}  // namespace
}  // namespace tutti::nccl_test
