// FaultyEndpoint: an endpoint whose messages are late, damaged or lost, as its faults say.
#pragma once

#include <deque>
#include <functional>
#include <random>
#include <vector>

#include "transports/faulty/spec.h"
#include "transports/transport.h"

namespace tutti::faulty {

// What the endpoints of one transport share.
struct Shared {
  Rank rank = 0;
  std::mt19937_64 random;
  uint64_t ticks = 0;     // peeks and progress calls, the clock of `reorder`
  uint64_t messages = 0;  // sent and received, the clock of `die`
  bool dead = false;
  Status first_loss;
  std::function<void()> after_message;  // dies, if it is time
};

class FaultyEndpoint final : public Endpoint {
 public:
  FaultyEndpoint(Endpoint* inner, std::vector<Fault> faults, Shared* shared);

  Io send(uint64_t signature, std::span<const iovec> pieces) override;
  std::byte* reserve(size_t bytes) override;
  void commit(uint64_t signature, size_t bytes) override;
  bool supports_reserve() const override { return !shared_->dead && inner_->supports_reserve(); }
  Io share(uint64_t signature, Endpoint& first) override;
  bool supports_share() const override { return !shared_->dead && inner_->supports_share(); }
  Io send_ref(uint64_t signature, const void* memory, size_t bytes) override;
  uint64_t sent() const override { return shared_->dead ? 0 : inner_->sent(); }
  uint64_t consumed() const override { return shared_->dead ? 0 : inner_->consumed(); }

  Io peek(Message* message) override { return peek_at(0, message); }
  Io peek_at(uint32_t k, Message* message) override;
  Status fetch(size_t offset, std::span<std::byte> dst) override;
  void release() override;
  Io recv(std::span<const iovec> pieces, uint64_t* signature, size_t* bytes) override;
  Status status() const override;

 private:
  // A message that has arrived below, and when it may be seen.
  struct Arrived {
    Deadline at;
    uint64_t tick = 0;
    bool corrupt = false;
    std::vector<std::byte> damaged;  // its payload, once it has been looked at
  };

  bool stopped() const { return shared_->dead || !loss_.ok(); }
  bool backs_off();
  void discover();
  bool visible(uint32_t k);
  void damage(Arrived& arrived, Message* message);
  void count_message();
  template <class Call>
  Io attempt_send(Call&& call);

  Endpoint* inner_;
  std::vector<Fault> faults_;
  Shared* shared_;
  bool watches_arrivals_ = false;
  uint64_t percent_again_ = 0;
  std::deque<Arrived> arrived_;
  uint64_t shown_ = 0;  // of arrived_, how many the caller has seen
  uint64_t total_arrived_ = 0;
  uint64_t messages_ = 0;  // sent and received here
  Status loss_;
};

}  // namespace tutti::faulty
