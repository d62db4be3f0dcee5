// Ranks as processes of this host: each joins through a UniqueId that rank 0 creates, and leaves a
// sentence in shared memory.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "tutti/communicator.h"

namespace tutti::processes {

constexpr uint32_t k_most = 16;

struct Board {
  std::atomic<int> id_ready{0};
  UniqueId id;
  std::atomic<uint64_t> progress[k_most];  // whatever the body counts
  std::atomic<int> go{0};
  // A second id, for those who join later.
  std::atomic<int> second_ready{0};
  UniqueId second;
  std::atomic<int64_t> killed_at{0};  // steady clock, ns
  double seconds[k_most][6];          // by rank: whatever the body measures
  char said[k_most][1024];
};

// What one process does; the string is its sentence ("" when all is well).
using Body = std::function<std::string(Communicator&, Board&)>;

class Job {
 public:
  Job(uint32_t ranks, const Config& config, const Body& body)
      : Job(
            ranks, [&config](Rank) { return config; }, body) {}
  Job(uint32_t ranks, const std::function<Config(Rank)>& config, const Body& body) : ranks_(ranks) {
    void* memory =
        mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    board_ = new (memory) Board;
    for (Rank r = 0; r < ranks; ++r) {
      const pid_t pid = fork();
      if (pid == 0) _exit(run(r, config(r), body));
      pids_.push_back(pid);
    }
  }
  // A process that is no rank from the start; its sentence is that of rank `as`.
  void add(Rank as, const std::function<std::string(Board&)>& body) {
    const pid_t pid = fork();
    if (pid == 0) _exit(say(as, body(*board_)));
    pids_.push_back(pid);
  }
  ~Job() {
    for (pid_t pid : pids_) kill(pid, SIGKILL);
    for (pid_t pid : pids_) waitpid(pid, nullptr, 0);
    munmap(board_, sizeof(Board));
  }

  Board& board() { return *board_; }
  pid_t pid(Rank r) const { return pids_[r]; }
  std::string said(Rank r) const { return board_->said[r]; }

  // Waits for rank r; its wait status, or -1 (and a failed test) when it does not end in time.
  int wait_for(Rank r, std::chrono::seconds patience = std::chrono::seconds(60)) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    int status = 0;
    while (waitpid(pids_[r], &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > deadline) {
        ADD_FAILURE() << "rank " << r << " hangs";
        return -1;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return status;
  }
  void expect_all_well() {
    for (Rank r = 0; r < ranks_; ++r) {
      EXPECT_EQ(wait_for(r), 0) << "rank " << r;
      EXPECT_EQ(said(r), "") << "rank " << r;
    }
  }
  bool wait_until(const std::function<bool()>& condition) const {
    for (int i = 0; i < 30000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

 private:
  int run(Rank rank, const Config& config, const Body& body) {
    std::string sentence;
    if (rank == 0) {
      Result<UniqueId> id = UniqueId::create();
      if (!id) return say(rank, id.status().to_string());
      board_->id = *id;
      board_->id_ready.store(1);
    }
    while (board_->id_ready.load() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    Result<std::unique_ptr<Communicator>> comm =
        Communicator::create(board_->id, rank, ranks_, config);
    return say(rank, comm ? body(**comm, *board_) : comm.status().to_string());
  }
  int say(Rank rank, const std::string& sentence) {
    std::strncpy(board_->said[rank], sentence.c_str(), sizeof(board_->said[rank]) - 1);
    return 0;
  }

  uint32_t ranks_;
  Board* board_;
  std::vector<pid_t> pids_;
};

inline Config over(const std::string& transport) {
  Config config;
  config.transports = {transport};
  config.init_timeout = 30;
  return config;
}

}  // namespace tutti::processes
