// Exchange: point-to-point and vector transfers, agreed pair by pair.
//
// Every (peer, direction) is a lane of its own that progresses independently, so a group of sends
// and receives cannot deadlock, in any order of issue. A transfer travels as one message by
// reference where the receiver can read the sender's memory, else in pieces of a slot. Transfers of
// zero bytes are elided at both ends.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "src/executor/router.h"
#include "src/executor/waiter.h"

namespace tutti {

struct Transfer {
  enum class Direction : uint8_t { send, recv };
  Direction direction = Direction::send;
  Rank peer = 0;  // may be this rank: the k-th send to self meets the k-th receive from self
  std::byte* memory = nullptr;
  uint64_t bytes = 0;
  DType dtype = DType::int8;
};

// The k-th send to self and the k-th receive from self among `transfers`. Errors: invalid_usage:
// they do not pair up, or differ in length.
struct CopyToSelf {
  std::byte* from = nullptr;
  std::byte* to = nullptr;
  uint64_t bytes = 0;
};
Result<std::vector<CopyToSelf>> copies_to_self(Rank self, std::span<const Transfer> transfers);

class Exchange {
 public:
  Exchange(Router& router, Monitor& monitor, const WaitPolicy& policy)
      : router_(router), monitor_(monitor), policy_(policy) {}

  // Runs all transfers to completion. Errors: invalid_usage when a peer's transfer has another
  // length or type (naming it), or when sends to self do not pair up with receives from self.
  Status run(std::span<const Transfer> transfers);

 private:
  // The transfers of one (peer, direction), in order, with how far the current one is.
  struct Queue {
    Endpoint* endpoint = nullptr;
    std::vector<Transfer> transfers;
    size_t next = 0;
    uint64_t offset = 0;        // of the current transfer
    uint64_t by_reference = 0;  // value consumed() must reach; 0: none
  };
  struct Pair {
    uint64_t sent = 0, received = 0;  // non-empty transfers ever, for signatures
  };

  Result<std::vector<Queue>> sort(std::span<const Transfer> transfers);
  Io advance(Queue& queue, Status* status);
  Io send(Queue& queue, const Transfer& transfer, uint64_t signature);
  Io recv(Queue& queue, const Transfer& transfer, uint64_t signature, Status* status);

  Router& router_;
  Monitor& monitor_;
  WaitPolicy policy_;
  std::map<Rank, Pair> pairs_;
};

}  // namespace tutti
