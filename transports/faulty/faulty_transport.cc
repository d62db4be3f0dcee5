// The decorator: passes everything on, except what its faults forbid.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "transports/faulty/faulty.h"
#include "transports/faulty/faulty_endpoint.h"
#include "transports/faulty/spec.h"

namespace tutti::faulty {
namespace {

// While messages may be held back, a wait must come back to let them go.
constexpr std::chrono::microseconds k_longest_wait{200};

class FaultyTransport final : public Transport {
 public:
  FaultyTransport(std::unique_ptr<Transport> inner, Spec spec, Rank rank)
      : inner_(std::move(inner)), name_(inner_->name()), card_(inner_->card()) {
    for (const Fault& fault : spec.faults) {
      if (fault.rank && *fault.rank != rank) continue;
      faults_.push_back(fault);
      impatient_ |=
          fault.kind == Kind::delay || fault.kind == Kind::reorder || fault.kind == Kind::again;
    }
    shared_.rank = rank;
    shared_.random.seed(spec.seed * 1000003 + rank);
    shared_.after_message = [this] { die_if_due(false, shared_.messages); };
  }

  std::string_view name() const override { return name_; }
  std::string card() const override { return card_; }
  Capabilities capabilities() const override {
    return inner_ ? inner_->capabilities() : Capabilities{};
  }

  Status connect(std::span<const std::string> cards, Deadline deadline) override {
    return alive() ? inner_->connect(cards, deadline) : death();
  }
  bool reaches(Rank peer) const override { return alive() && inner_->reaches(peer); }

  Result<Endpoint*> open(Rank peer, uint32_t lane, const EndpointOptions& options) override {
    if (!alive()) return death();
    auto opened = inner_->open(peer, lane, options);
    if (!opened.ok()) return opened;
    auto& endpoint = endpoints_[{peer, lane}];
    if (endpoint == nullptr) {
      std::vector<Fault> mine;
      for (const Fault& fault : faults_) {
        const bool here = (!fault.peer || *fault.peer == peer) &&
                          (!fault.lane || *fault.lane == lane) && fault.kind != Kind::die;
        if (here) mine.push_back(fault);
      }
      endpoint = std::make_unique<FaultyEndpoint>(*opened, std::move(mine), &shared_);
    }
    return endpoint.get();
  }

  std::vector<Rank> lost() const override { return alive() ? inner_->lost() : std::vector<Rank>(); }

  Status progress() override {
    ++shared_.ticks;
    if (!alive()) {
      bury();
      return death();
    }
    const Status status = inner_->progress();
    return shared_.first_loss.ok() ? status : shared_.first_loss;
  }

  void wait(Clock::duration timeout) override {
    ++shared_.ticks;
    if (!alive()) return;
    inner_->wait(impatient_ ? std::min<Clock::duration>(timeout, k_longest_wait) : timeout);
  }

  void announce(const CallRecord& record) override {
    if (!alive()) return;
    inner_->announce(record);
    if (record.finished == 0) die_if_due(true, ++calls_);
  }
  std::optional<CallRecord> peer_call(Rank peer) override {
    return alive() ? inner_->peer_call(peer) : std::nullopt;
  }
  void post_error(const ErrorRecord& record) override {
    if (alive()) inner_->post_error(record);
  }
  std::optional<ErrorRecord> posted_error() override {
    return alive() ? inner_->posted_error() : std::nullopt;
  }

  Result<MemoryRef> describe(const void* memory, size_t bytes) override {
    if (!alive()) return death();
    return inner_->describe(memory, bytes);
  }
  Result<void*> map(Rank peer, MemoryRef ref, size_t bytes) override {
    if (!alive()) return death();
    return inner_->map(peer, ref, bytes);
  }
  Status remote_read(Rank peer, uint64_t address, std::span<std::byte> dst) override {
    return alive() ? inner_->remote_read(peer, address, dst) : death();
  }
  Status remote_write(Rank peer, uint64_t address, std::span<const std::byte> src) override {
    return alive() ? inner_->remote_write(peer, address, src) : death();
  }
  std::byte* window(Rank peer) override { return inner_ ? inner_->window(peer) : nullptr; }

  void close(Deadline deadline) override {
    if (alive())
      inner_->close(deadline);
    else
      inner_.reset();  // the dead say no goodbye
  }

 private:
  bool alive() const { return !shared_.dead; }
  Status death() const {
    return Status(Code::aborted, fmt::format("rank {} is dead (fault injection)", shared_.rank));
  }

  void die_if_due(bool calls, uint64_t count) {
    for (const Fault& fault : faults_) {
      if (fault.kind != Kind::die || fault.by_call != calls || fault.amount != count) continue;
      if (!fault.thread) ::kill(::getpid(), SIGKILL);
      shared_.dead = true;
    }
  }

  // Lets peers see the death of a rank that is a thread. Where memory is shared, the caller may
  // still hold pointers into it: then it stays until close().
  void bury() {
    if (inner_ == nullptr) return;
    const Capabilities can = inner_->capabilities();
    if (!can.window && !can.map_private && !can.map_segments) inner_.reset();
  }

  std::unique_ptr<Transport> inner_;
  std::string name_;
  std::string card_;
  std::vector<Fault> faults_;
  bool impatient_ = false;  // messages may become visible without anything arriving
  Shared shared_;
  uint64_t calls_ = 0;
  std::map<std::pair<Rank, uint32_t>, std::unique_ptr<FaultyEndpoint>> endpoints_;
};

}  // namespace
}  // namespace tutti::faulty

namespace tutti {

Result<std::unique_ptr<Transport>> make_faulty_transport(std::unique_ptr<Transport> inner,
                                                         const std::string& spec, Rank rank) {
  auto parsed = faulty::parse_spec(spec);
  if (!parsed.ok()) return parsed.status();
  return std::unique_ptr<Transport>(
      std::make_unique<faulty::FaultyTransport>(std::move(inner), std::move(*parsed), rank));
}

}  // namespace tutti
