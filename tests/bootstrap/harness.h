// Ranks as threads of the test, joined through one id.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "src/communicator/bootstrap/bootstrap.h"
#include "src/communicator/bootstrap/id.h"

namespace tutti {

using Joined = Result<std::unique_ptr<Bootstrap>>;

inline SocketDeadline in_seconds(double seconds) {
  return SocketClock::now() +
         std::chrono::duration_cast<SocketClock::duration>(std::chrono::duration<double>(seconds));
}

inline UniqueId loopback_id() {
  IdOptions options;
  options.interface = "lo";
  Result<UniqueId> id = create_id(options);
  EXPECT_TRUE(id.ok()) << id.status().to_string();
  return *id;
}

inline BootstrapOptions rank_of(Rank rank, uint32_t ranks, double seconds = 60) {
  BootstrapOptions options;
  options.rank = rank;
  options.ranks = ranks;
  options.deadline = in_seconds(seconds);
  return options;
}

// Runs body(rank) on one thread per rank.
inline void on_ranks(uint32_t ranks, const std::function<void(Rank)>& body) {
  std::vector<std::thread> threads;
  for (Rank rank = 0; rank < ranks; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

// Everybody joins; then body(rank, bootstrap).
inline void on_joined(const UniqueId& id, uint32_t ranks,
                      const std::function<void(Rank, Bootstrap&)>& body, double seconds = 60) {
  on_ranks(ranks, [&](Rank rank) {
    Joined joined = Bootstrap::join(id, rank_of(rank, ranks, seconds));
    ASSERT_TRUE(joined.ok()) << "rank " << rank << ": " << joined.status().to_string();
    body(rank, **joined);
  });
}

inline std::string blob_of(Rank rank, size_t bytes = 128) {
  std::string blob = "card of rank " + std::to_string(rank) + " ";
  blob.resize(bytes, static_cast<char>('a' + rank % 26));
  return blob;
}

inline bool mentions(const Status& status, const std::string& text) {
  return status.message().find(text) != std::string::npos;
}

}  // namespace tutti
