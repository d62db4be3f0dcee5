// Ranks as processes, and what they tell the test.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "tests/nccl/world.h"

namespace tutti::nccl_test {

using Clock = std::chrono::steady_clock;

// What the processes of a test share.
struct Board {
  std::atomic<int> ids{0};
  ncclUniqueId id[4];
  std::atomic<int> rounds{0};
  char said[8][1024] = {};
};

class Job {
 public:
  // `body` returns "" when all is well.
  using Body = std::function<std::string(int rank, Board& board)>;
  Job(int processes, const Body& body) {
    void* memory =
        mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    board_ = new (memory) Board;
    for (int r = 0; r < processes; ++r) {
      const pid_t pid = fork();
      if (pid == 0) {
        strncpy(board_->said[r], body(r, *board_).c_str(), sizeof board_->said[r] - 1);
        exit(0);  // not _exit: what the library leaves behind is part of the test
      }
      pids_.push_back(pid);
    }
  }
  ~Job() {
    for (pid_t pid : pids_)
      if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
      }
    munmap(board_, sizeof(Board));
  }
  Board& board() { return *board_; }
  void expect_killed(int rank) {
    int status = 0;
    waitpid(pids_[rank], &status, 0);
    pids_[rank] = -1;
    EXPECT_TRUE(WIFSIGNALED(status)) << "process " << rank << ": " << board_->said[rank];
  }
  void expect_well(int rank) {
    const auto deadline = Clock::now() + std::chrono::seconds(60);
    int status = -1;
    while (waitpid(pids_[rank], &status, WNOHANG) == 0) {
      if (Clock::now() > deadline) {
        ADD_FAILURE() << "process " << rank << " hangs";
        return;
      }
      usleep(1000);
    }
    pids_[rank] = -1;
    EXPECT_EQ(status, 0) << "process " << rank;
    EXPECT_STREQ(board_->said[rank], "") << "process " << rank;
  }

 private:
  Board* board_;
  std::vector<pid_t> pids_;
};

// `which` id of the board: made by `make` in the process that is `maker`.
inline const ncclUniqueId& shared_id(Board& board, int which, bool maker,
                                     const std::function<void(ncclUniqueId*)>& make) {
  if (maker) {
    make(&board.id[which]);
    board.ids.store(which + 1);
  }
  while (board.ids.load() <= which) usleep(200);
  return board.id[which];
}

#define TELL(call)                                                  \
  do {                                                              \
    if (ncclResult_t tell_ = (call); tell_ != ncclSuccess)          \
      return std::string(#call) + ": " + ncclGetLastError(nullptr); \
  } while (0)

inline std::string join(Board& board, int rank, int ranks, ncclComm_t* comm) {
  const ncclUniqueId& id =
      shared_id(board, 0, rank == 0, [](ncclUniqueId* made) { ncclGetUniqueId(made); });
  TELL(ncclCommInitRank(comm, ranks, id, rank));
  return {};
}

}  // namespace tutti::nccl_test
