// LaneRun: one lane of one call, as a state machine whose every method returns without blocking.
//
// Per message it chooses how the bytes travel: in the line that announces them (tiny), by the
// receiver reading the sender's memory (pull, where the transport allows), else through a slot.
// Peepholes: a run of sends of one chunk is copied once and shared; a pass is one k-way reduction
// over everything that has arrived; a pass whose result is sent at once is stored into its
// destination and the outgoing slot while it is in registers.
#pragma once

#include <utility>
#include <vector>

#include "src/executor/bound_plan.h"
#include "src/executor/router.h"

namespace tutti {

// The arguments of one call.
struct CallBuffers {
  const std::byte* input = nullptr;
  std::byte* output = nullptr;
};

// A mismatch of signatures: what the caller is told when a peer does not make the same call.
Status mismatch(Rank peer, std::string_view what);

class LaneRun {
 public:
  enum class Advance : uint8_t { blocked, moved, done, failed };

  // What the lanes of a call have in common.
  struct Shared {
    Router& router;
    BoundPlan& bound;
    std::vector<std::byte>& tiles;
    CallBuffers buffers;
    uint64_t signature = 0;
  };

  explicit LaneRun(const LaneProgram& program) : program_(program) {}

  void start(Shared& shared);
  // Runs as far as messages and credits allow.
  Advance advance();

  Lane lane() const { return program_.lane(); }
  const Status& status() const { return status_; }  // why it failed
  Rank waiting_for() const { return waiting_for_; }

 private:
  struct Operand {
    Endpoint* endpoint = nullptr;  // null: local memory
    Message message;
    Buffer buffer = Buffer::input;  // local
    uint32_t chunk = 0;
  };

  Io execute();
  void next();
  bool drain();

  Io send();
  Io send_one(Endpoint& to, uint64_t bytes);
  Io recv();
  Io copy();
  Io signal();
  Io wait();
  Io pass();

  // pass()
  Io collect();
  std::byte* outgoing_slot(uint64_t bytes);
  void reduce_operands();
  bool extends(const Extent& dst, uint32_t c) const;
  void reduce_run(uint32_t c, const Extent& dst, uint64_t at);
  void reduce_tile(uint32_t c, const Extent& dst, uint64_t at, uint64_t within);

  std::byte* base(Buffer buffer) const;
  void prepare(Buffer buffer, uint32_t first, uint32_t count);
  uint64_t bytes_of(const Step& step) const;
  bool elided(const Step& step) const { return step.count > 0 && bytes_of(step) == 0; }
  Endpoint* endpoint(Rank peer);
  Io fail(Status status);
  Io blocked_on(const Endpoint& endpoint);
  bool check(const Endpoint& from, uint64_t signature, uint64_t bytes, uint64_t expected);

  const LaneProgram& program_;
  Shared* shared_ = nullptr;
  Action action_;
  uint32_t round_ = 0;
  uint32_t sub_ = 0;       // steps of the action that are through
  bool prepared_ = false;  // pieces_ are those of the action
  bool draining_ = false;
  Rank waiting_for_ = 0;
  Status status_;

  std::vector<iovec> pieces_;
  std::vector<Operand> operands_;
  std::vector<const void*> sources_;
  std::vector<std::pair<Lane, uint32_t>> tokens_;       // from which lane, how many
  std::vector<std::pair<Endpoint*, uint64_t>> pulled_;  // endpoint, its last message by reference
  Endpoint* published_ = nullptr;  // where the chunk of this run of sends was copied to
  std::byte* slot_ = nullptr;      // of the send that follows the pass, filled by the pass
};

}  // namespace tutti
