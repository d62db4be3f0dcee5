// A communicator whose ranks die: revoke, failed, agree, shrink. None of them needs the data
// connections or the bootstrap tree; what is settled among ranks is settled by the council.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "src/communicator/device_rank.h"
#include "src/communicator/impl.h"

namespace tutti {
namespace {

// How long before a deadline a rank asks whom the others wait for.
Clock::duration time_to_ask(Clock::duration timeout) {
  return std::min<Clock::duration>(timeout / 4, std::chrono::milliseconds(250));
}

}  // namespace

std::string Communicator::Impl::describe_peers(const std::vector<Rank>& ranks) const {
  constexpr size_t k_most = 8;
  std::string text;
  for (size_t i = 0; i < std::min(k_most, ranks.size()); ++i)
    text += (i == 0 ? "" : ", ") + describe_peer(ranks[i]);
  if (ranks.size() > k_most) text += fmt::format(" and {} more", ranks.size() - k_most);
  return text;
}

Status Communicator::Impl::usable() const {
  if (finalized_)
    return Status(Code::invalid_usage,
                  fmt::format("rank {}: the communicator was finalized", rank_));
  if (fork_guard_ != nullptr && *static_cast<volatile char*>(fork_guard_) == 0)
    return Status(Code::invalid_usage,
                  fmt::format("rank {}: used in a forked child; make a communicator there", rank_));
  return {};
}

void Communicator::Impl::revoke(const std::string& reason) {
  if (!usable().ok()) return;
  const std::string text = fmt::format("rank {}: revoked: {}", rank_, reason);
  bootstrap_->consult(
      [&](Council& council) { council.revoke(encode_error(Status(Code::aborted, text))); });
  if (const auto device = device_rank()) device->device_path().stop();
  // A running call notices by itself; otherwise tell the peers from here.
  if (!enter_beside()) return;
  static_cast<void>(adopted_error());
  leave_call();
}

std::vector<Rank> Communicator::Impl::failed() {
  // The transports belong to the thread of the running call; it looks for itself.
  if (usable().ok() && enter_beside()) {
    for (const auto& t : router_->transports()) static_cast<void>(t->progress());
    static_cast<void>(bootstrap_->progress());
    collect_lost();
    leave_call();
  }
  return known_lost();
}

// What the connections of this rank know. On the thread that may use the transports.
void Communicator::Impl::collect_lost() {
  std::vector<Rank> ranks = bootstrap_->lost();
  for (const auto& t : router_->transports())
    for (Rank r : t->lost()) ranks.push_back(r);
  std::lock_guard lock(error_mutex_);
  lost_.insert(ranks.begin(), ranks.end());
}

// Blocks until `done` or the deadline; shortly before that the coordinator is asked who is late.
bool Communicator::Impl::await_council(const std::function<bool(Council&)>& done,
                                       Clock::duration timeout, std::vector<Rank>* awaited) {
  const Deadline deadline = Clock::now() + timeout;
  if (bootstrap_->await(done, deadline - time_to_ask(timeout))) return true;
  bootstrap_->consult([](Council& council) { council.inquire(); });
  if (bootstrap_->await(done, deadline)) return true;
  bootstrap_->consult([&](Council& council) { *awaited = council.awaited(); });
  std::erase(*awaited, rank_);
  return false;
}

Result<Communicator::Agreement> Communicator::Impl::agree(uint64_t flags,
                                                          std::chrono::nanoseconds timeout) {
  TUTTI_RETURN_IF_ERROR(usable());
  const auto patience =
      std::clamp<Clock::duration>(std::chrono::duration_cast<Clock::duration>(timeout),
                                  Clock::duration::zero(), std::chrono::hours(24 * 365));
  bootstrap_->consult([&](Council& council) { council.agree(flags); });
  std::optional<Council::Verdict> verdict;
  std::vector<Rank> awaited;
  const bool decided = await_council(
      [&](Council& council) {
        verdict = council.take_verdict();
        return verdict.has_value();
      },
      patience, &awaited);
  if (!decided)
    return Status(Code::timeout, fmt::format("rank {}: agree: no answer in {:.3f} s from {}", rank_,
                                             std::chrono::duration<double>(patience).count(),
                                             describe_peers(awaited)));
  if (verdict->gone.contains(rank_))
    return Status(Code::remote_error,
                  fmt::format("rank {}: agree: the others count this rank among the dead", rank_));
  return Agreement{verdict->flags, {verdict->gone.begin(), verdict->gone.end()}};
}

Communicator::Impl::Descendant Communicator::Impl::shrink(std::span<const Rank> excluded,
                                                          const Config* config) {
  TUTTI_RETURN_IF_ERROR(usable());
  TUTTI_RETURN_IF_ERROR(no_open_group("shrink"));
  auto bad = [&](std::string why) {
    return Status(Code::invalid_argument, fmt::format("rank {}: shrink: {}", rank_, why));
  };
  const std::set<Rank> out(excluded.begin(), excluded.end());
  for (Rank r : out)
    if (r >= ranks_) return bad(fmt::format("excluded rank {} of {} ranks", r, ranks_));
  if (out.contains(rank_)) return bad("this rank itself is among the excluded");

  std::vector<Rank> members;
  for (Rank r = 0; r < ranks_; ++r)
    if (!out.contains(r)) members.push_back(r);
  const Config settings = settings_of_descendant(config);
  const auto place = std::find(members.begin(), members.end(), rank_) - members.begin();
  BootstrapOptions options =
      bootstrap_options(static_cast<Rank>(place), static_cast<uint32_t>(members.size()), settings);
  // Other sets of survivors have other keys, and so can never join each other.
  const Key key = hmac_sha256(
      key_, {std::as_bytes(std::span("survivors", 9)), std::as_bytes(std::span(members))});
  // The leader is connected to all of them and so sees whoever dies on the way.
  options.interrupted = [this, &members] {
    std::optional<Rank> dead;
    bootstrap_->consult([&](const Council& council) {
      for (Rank r : members)
        if (council.gone().contains(r)) dead = r;
    });
    return dead ? Status(Code::remote_error, describe_peer(*dead) + " has died meanwhile")
                : Status();
  };
  Result<std::string> ticket = std::string();
  if (members.size() > 1) ticket = assemble(out, key, options);
  if (!ticket) return ticket.status();
  Descendant made = enter(*ticket, key, options, settings);
  if (!made) return made.status().with_context(fmt::format("rank {}: shrink", rank_));
  return made;
}

// All survivors come together; the lowest one founds what they enter.
Result<std::string> Communicator::Impl::assemble(const std::set<Rank>& excluded, const Key& key,
                                                 const BootstrapOptions& options) {
  bootstrap_->consult([&](Council& council) { council.assemble(excluded); });
  std::optional<Result<std::string>> word;
  const auto settled = [&](Council& council) {
    word = council.word();
    return word.has_value() || council.assembled();
  };
  std::vector<Rank> awaited;
  if (!await_council(settled, options.deadline - Clock::now(), &awaited)) {
    word = Status(Code::timeout, fmt::format("{} has not come in time", describe_peers(awaited)));
  } else if (!word) {  // assembled, and this rank leads
    word = bootstrap_->found(key, options);
    if (*word) bootstrap_->consult([&](Council& council) { council.tell(**word); });
  }
  bootstrap_->consult([&](Council& council) { council.disperse(word->status()); });
  if (!*word) return word->status().with_context(fmt::format("rank {}: shrink", rank_));
  return std::move(*word);
}

}  // namespace tutti
