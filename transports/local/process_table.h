// ProcessTable: how ranks that are threads of one process find each other's arenas.
//
// A card names an entry of this table, so that a card from another process, or of a rank that is
// gone, is recognised instead of being followed as a pointer. Process-wide by nature; see
// docs/decisions/0005-segment-registry.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "transports/line/arena.h"

namespace tutti {

class ProcessTable {
 public:
  static ProcessTable& instance();

  // A rank's entry. The nonce is drawn once per process; the pid tells a forked child's copy.
  struct Ticket {
    std::array<std::byte, 16> nonce{};
    uint32_t pid = 0;
    uint32_t reserved = 0;
    uint64_t number = 0;
    std::string card() const;
  };
  // The ranks of one communicator that live here, shared by all of them: arenas stay until the
  // last member has left, whatever order they leave in.
  struct Group {
    std::vector<std::shared_ptr<line::Arena>> members;  // null: lives elsewhere
  };

  Ticket enter(std::shared_ptr<line::Arena> arena);
  void leave(const Ticket& ticket);
  // Errors: remote_error when a card of this process belongs to a rank that has left already.
  Result<std::shared_ptr<const Group>> group(std::span<const std::string> cards);

 private:
  ProcessTable();
  // The number on a card of this very process.
  std::optional<uint64_t> number_of(const std::string& card) const;

  std::mutex mutex_;
  std::array<std::byte, 16> nonce_{};
  uint64_t next_ = 1;
  std::unordered_map<uint64_t, std::shared_ptr<line::Arena>> arenas_;
  std::unordered_map<uint64_t, std::weak_ptr<const Group>> groups_;  // by first local number
};

}  // namespace tutti
