// Revocation, agreement and assembly as a state machine; see council.h.
#include "src/communicator/bootstrap/council.h"

#include <algorithm>

#include "src/communicator/bootstrap/channel.h"

namespace tutti {
namespace {

void append_set(std::string* to, const std::set<Rank>& ranks) {
  append(to, static_cast<uint32_t>(ranks.size()));
  for (Rank r : ranks) append(to, r);
}

bool take_set(std::string_view* from, uint32_t ranks, std::set<Rank>* set) {
  uint32_t count = 0;
  if (!take(from, &count) || count > ranks) return false;
  for (Rank r = 0; count > 0; --count) {
    if (!take(from, &r) || r >= ranks) return false;
    set->insert(set->end(), r);
  }
  return true;
}

void append_verdict(std::string* to, const Council::Verdict& verdict) {
  append(to, verdict.flags);
  append_set(to, verdict.gone);
}

bool read_verdict(std::string_view* from, uint32_t ranks, Council::Verdict* verdict) {
  return take(from, &verdict->flags) && take_set(from, ranks, &verdict->gone);
}

std::string list(const std::set<Rank>& ranks) {
  std::string text = "{";
  for (Rank r : ranks) text += (text.size() > 1 ? ", " : "") + std::to_string(r);
  return text + "}";
}

std::string of_number(uint32_t number) {
  std::string text;
  append(&text, number);
  return text;
}

}  // namespace

// --- letters and who is gone

void Council::post(Rank to, Type type, const std::string& text) {
  letters_.push_back({to, std::string(1, static_cast<char>(type)) + text});
}

void Council::post_to_living(Type type, const std::string& text) {
  for (Rank r = 0; r < ranks_; ++r)
    if (r != rank_ && lives(r)) post(r, type, text);
}

void Council::receive(Rank from, std::string_view text) {
  uint8_t type = 0;
  if (from >= ranks_ || from == rank_ || !take(&text, &type)) return;
  switch (static_cast<Type>(type)) {
    case Type::revoke:
      told_.insert(from);
      return revoke(std::string(text));
    case Type::convene:
    case Type::opinion:
    case Type::propose:
    case Type::accept:
    case Type::verdict:
      return on_agreement_letter(from, static_cast<Type>(type), text);
    case Type::summon:
    case Type::enter:
    case Type::word:
    case Type::refuse:
      return on_assembly_letter(from, static_cast<Type>(type), text);
    case Type::inquire: {
      uint8_t assembling = 0;
      if (!take(&text, &assembling)) return;
      const std::vector<Rank> waiting = assembling != 0 ? awaited_here() : awaited_opinions();
      std::string answer;
      append_set(&answer, {waiting.begin(), waiting.end()});
      return post(from, Type::awaited, answer);
    }
    case Type::awaited: {
      std::set<Rank> ranks;
      if (take_set(&text, ranks_, &ranks)) hint_.assign(ranks.begin(), ranks.end());
      return;
    }
    case Type::note:
      if (text.size() <= k_most_note) notes_[from] = std::string(text);
      return;
  }
}

void Council::note(const std::string& text) { post_to_living(Type::note, text); }

void Council::lost(Rank rank) {
  if (rank != rank_ && rank < ranks_) learn({rank});
}

void Council::learn(const std::set<Rank>& gone) {
  const size_t before = gone_.size();
  for (Rank r : gone)
    if (r != rank_) gone_.insert(r);
  if (gone_.size() == before) return;
  if (revoked_) spread_revocation();
  // By number: deciding one may not touch the others.
  for (uint32_t number : {current_ - 1, current_, current_ + 1})
    if (agreements_.contains(number)) advance(number);
  if (assembly_) check_assembly();
}

// --- revocation

std::optional<Rank> Council::next_living(Rank from, uint32_t distance, bool upwards) const {
  for (uint32_t d = distance; d < ranks_; ++d) {
    const Rank r = upwards ? (from + d) % ranks_ : (from + ranks_ - d) % ranks_;
    if (lives(r)) return r == rank_ ? std::nullopt : std::optional<Rank>(r);
  }
  return std::nullopt;
}

void Council::revoke(const std::string& record) {
  if (revoked_) return;
  revoked_ = record;
  spread_revocation();
}

// Again whenever a rank turns out to be gone: its place is taken by the next one.
void Council::spread_revocation() {
  for (bool upwards : {true, false})
    for (uint32_t distance = 1; distance < ranks_; distance *= 2) {
      const std::optional<Rank> to = next_living(rank_, distance, upwards);
      if (to && told_.insert(*to).second) post(*to, Type::revoke, *revoked_);
    }
}

// --- agreement
//
// The lowest living rank coordinates. It convenes all (which also finds out who is gone), collects
// their opinions, proposes a verdict, and when all who live have accepted it, announces it. When it
// dies, the next one starts over; what any living rank has accepted before is proposed again. A
// verdict can have been announced only after all living ranks had accepted it, so no other one can
// follow.

Rank Council::coordinator() const {
  for (Rank r = 0; r < rank_; ++r)
    if (lives(r)) return r;
  return rank_;
}

void Council::agree(uint64_t flags) {
  Agreement& agreement = agreements_[current_];
  hint_.clear();
  agreement.begun = true;
  agreement.flags &= flags;
  // Whoever coordinates hears of this attempt, too.
  agreement.sent_to.reset();
  agreement.convened = false;
  advance(current_);
}

std::optional<Council::Verdict> Council::take_verdict() {
  auto agreement = agreements_.find(current_);
  if (agreement == agreements_.end() || !agreement->second.begun || !agreement->second.verdict)
    return std::nullopt;
  // The one before is of no use to anybody: all have begun this one.
  agreements_.erase(current_ - 1);
  ++current_;
  return agreement->second.verdict;
}

void Council::advance(uint32_t number) {
  Agreement& agreement = agreements_[number];
  if (agreement.verdict || !agreement.begun) return;
  const Rank first = coordinator();
  if (first == rank_) return coordinate(number, agreement);
  if (agreement.sent_to == first) return;
  agreement.sent_to = first;
  std::string text = of_number(number);
  append(&text, agreement.flags);
  append_set(&text, gone_);
  append(&text, static_cast<uint8_t>(agreement.heard.has_value()));
  if (agreement.heard) {
    append(&text, agreement.heard->coordinator);
    append_verdict(&text, agreement.heard->verdict);
  }
  post(first, Type::opinion, text);
}

bool Council::heard_all(const Agreement& agreement) const {
  for (Rank r = 0; r < ranks_; ++r)
    if (r != rank_ && lives(r) && !agreement.opinions.contains(r)) return false;
  return true;
}

Council::Verdict Council::choose(const Agreement& agreement) const {
  const Proposal* latest = agreement.heard ? &*agreement.heard : nullptr;
  Verdict verdict{agreement.flags, gone_};
  for (const auto& [rank, opinion] : agreement.opinions) {
    if (!lives(rank)) continue;
    verdict.flags &= opinion.flags;
    if (opinion.heard && (latest == nullptr || opinion.heard->coordinator > latest->coordinator))
      latest = &*opinion.heard;
  }
  return latest != nullptr ? latest->verdict : verdict;
}

void Council::propose_to(Rank rank, uint32_t number, const Agreement& agreement) {
  std::string text = of_number(number);
  append_verdict(&text, agreement.heard->verdict);
  post(rank, Type::propose, text);
}

void Council::coordinate(uint32_t number, Agreement& agreement) {
  if (!agreement.convened) {
    agreement.convened = true;
    std::string text = of_number(number);
    append_set(&text, gone_);
    post_to_living(Type::convene, text);
  }
  if (!agreement.proposed) {
    if (!heard_all(agreement)) return;
    agreement.heard = Proposal{rank_, choose(agreement)};
    agreement.proposed = true;
    for (Rank r = 0; r < ranks_; ++r)
      if (r != rank_ && lives(r)) propose_to(r, number, agreement);
  }
  for (Rank r = 0; r < ranks_; ++r)
    if (r != rank_ && lives(r) && !agreement.accepted.contains(r)) return;
  decide(number, agreement, agreement.heard->verdict);
}

// Whoever has sent this rank its opinion waits for the verdict, wherever that came from.
void Council::decide(uint32_t number, Agreement& agreement, const Verdict& verdict) {
  if (agreement.verdict) return;
  agreement.verdict = verdict;
  for (const auto& [rank, opinion] : agreement.opinions)
    if (lives(rank)) announce(rank, number, verdict);
  learn(verdict.gone);
}

void Council::announce(Rank to, uint32_t number, const Verdict& verdict) {
  std::string text = of_number(number);
  append_verdict(&text, verdict);
  post(to, Type::verdict, text);
}

void Council::on_agreement_letter(Rank from, Type type, std::string_view text) {
  uint32_t number = 0;
  // No living rank is more than one agreement away: each needs the opinion of all.
  if (!take(&text, &number) || number + 1 < current_ || number > current_ + 1) return;
  std::set<Rank> gone;
  switch (type) {
    case Type::convene: {
      if (!take_set(&text, ranks_, &gone)) return;
      learn(gone);
      if (agreements_[number].verdict) announce(from, number, *agreements_[number].verdict);
      return;
    }
    case Type::opinion: {
      Opinion opinion;
      uint8_t heard = 0;
      if (!take(&text, &opinion.flags) || !take_set(&text, ranks_, &gone) || !take(&text, &heard))
        return;
      if (heard != 0) {
        Proposal proposal;
        if (!take(&text, &proposal.coordinator) || !read_verdict(&text, ranks_, &proposal.verdict))
          return;
        opinion.heard = std::move(proposal);
      }
      if (agreements_[number].verdict) return announce(from, number, *agreements_[number].verdict);
      Agreement& agreement = agreements_[number];
      agreement.opinions[from] = std::move(opinion);
      learn(gone);
      // Another attempt of a rank that has lost its connection, perhaps with the proposal.
      if (agreement.proposed) propose_to(from, number, agreement);
      return advance(number);
    }
    case Type::propose: {
      // Only from whom this rank takes for the coordinator: an earlier one may be long dead.
      Agreement& agreement = agreements_[number];
      Verdict verdict;
      if (agreement.sent_to != from || !read_verdict(&text, ranks_, &verdict)) return;
      agreement.heard = Proposal{from, std::move(verdict)};
      return post(from, Type::accept, of_number(number));
    }
    case Type::accept: {
      Agreement& agreement = agreements_[number];
      if (!agreement.proposed) return;
      agreement.accepted.insert(from);
      return advance(number);
    }
    case Type::verdict: {
      Verdict verdict;
      if (!read_verdict(&text, ranks_, &verdict)) return;
      return decide(number, agreements_[number], verdict);
    }
    default:
      return;
  }
}

// --- assembly

Rank Council::leader() const {
  Rank r = 0;
  while (assembly_->excluded.contains(r)) ++r;
  return r;
}

void Council::assemble(const std::set<Rank>& excluded) {
  hint_.clear();
  word_.reset();
  assembly_ = Assembly{++attempts_, excluded, {}};
  const Rank first = leader();
  std::string text;
  append(&text, attempts_);
  append_set(&text, excluded);
  if (first != rank_) {
    post(first, Type::enter, text);
  } else {
    for (Rank r = 0; r < ranks_; ++r)
      if (r != rank_ && member(r)) post(r, Type::summon, text);
  }
  check_assembly();
}

bool Council::assembled() const {
  if (!assembly_ || word_ || leader() != rank_) return false;
  return assembly_->entered.size() + assembly_->excluded.size() + 1 == ranks_;
}

void Council::refuse(Rank to, uint64_t attempt, const Status& why) {
  std::string text;
  append(&text, attempt);
  post(to, Type::refuse, text + encode_status(why));
}

Status Council::disagreement(Rank other, const std::set<Rank>& theirs) const {
  return Status(Code::invalid_usage, "rank " + std::to_string(other) + " excludes " + list(theirs) +
                                         ", but rank " + std::to_string(rank_) + " excludes " +
                                         list(assembly_->excluded));
}

void Council::check_assembly() {
  if (word_) return;
  for (Rank r : gone_)
    if (member(r))
      return end_assembly(Status(Code::remote_error, "rank " + std::to_string(r) +
                                                         " is gone and not among the excluded " +
                                                         list(assembly_->excluded)));
  for (auto at = entries_.begin(); at != entries_.end();) {
    const auto& [from, entry] = *at;
    const bool same = entry.excluded == assembly_->excluded;
    if (same && entry.withdrawn.ok()) {
      assembly_->entered.insert(from);
    } else if (entry.withdrawn.ok()) {
      if (member(from)) return end_assembly(disagreement(from, entry.excluded));
      refuse(from, entry.attempt, disagreement(from, entry.excluded));
    } else if (same) {
      const Status why = entry.withdrawn;
      entries_.erase(at);
      return end_assembly(why);
    }
    at = same ? std::next(at) : entries_.erase(at);
  }
}

// Everybody is told once: who is here at once, others when they come. So attempts stay in step.
void Council::end_assembly(const Status& why) {
  if (leader() != rank_) refuse(leader(), assembly_->attempt, why);
  owed_ = Debt{assembly_->excluded, {}, why};
  for (Rank r = 0; r < ranks_; ++r) {
    if (r == rank_ || !lives(r)) continue;
    const auto entry = entries_.find(r);
    if (entry != entries_.end()) {
      if (entry->second.withdrawn.ok()) refuse(r, entry->second.attempt, why);
    } else if (member(r) && leader() == rank_) {
      owed_->to.insert(r);
    }
  }
  entries_.clear();
  word_ = Result<std::string>(why);
}

void Council::tell(const std::string& word) {
  for (const auto& [to, entry] : entries_) {
    if (!member(to)) continue;
    std::string text;
    append(&text, entry.attempt);
    post(to, Type::word, text + word);
  }
  entries_.clear();
  owed_.reset();
  word_ = word;
}

void Council::disperse(const Status& why) {
  if (!assembly_) return;
  if (!why.ok() && !word_) end_assembly(why);
  assembly_.reset();
}

void Council::on_assembly_letter(Rank from, Type type, std::string_view text) {
  uint64_t attempt = 0;
  if (!take(&text, &attempt)) return;
  const bool waits = assembly_ && !word_;
  switch (type) {
    case Type::summon: {
      std::set<Rank> excluded;
      if (!waits || !take_set(&text, ranks_, &excluded) || excluded == assembly_->excluded) return;
      // Two sets, and so perhaps two leaders that would wait for each other's members.
      const Status why = disagreement(from, excluded);
      refuse(from, attempt, why);
      return end_assembly(why);
    }
    case Type::enter: {
      Entry entry;
      entry.attempt = attempt;
      if (!take_set(&text, ranks_, &entry.excluded)) return;
      if (owed_ && owed_->excluded == entry.excluded && owed_->to.erase(from) > 0)
        return refuse(from, attempt, owed_->why);
      entries_[from] = std::move(entry);
      if (waits) check_assembly();
      return;
    }
    case Type::word:
      if (waits && from == leader() && attempt == assembly_->attempt) word_ = std::string(text);
      return;
    case Type::refuse: {
      const Status why = decode_status(text);
      const auto entry = entries_.find(from);
      if (entry != entries_.end() && entry->second.attempt == attempt) {
        entry->second.withdrawn = why;
        if (waits) check_assembly();
      } else if (waits && attempt == assembly_->attempt && from == leader()) {
        word_ = Result<std::string>(why);
      } else if (waits && attempt == assembly_->attempt && leader() == rank_ && member(from)) {
        end_assembly(why);
      }
      return;
    }
    default:
      return;
  }
}

// --- whom we wait for

std::vector<Rank> Council::awaited() const {
  return assembly_ ? awaited_here() : awaited_opinions();
}

std::vector<Rank> Council::awaited_here() const {
  if (!assembly_) return {rank_};
  if (leader() != rank_) return hint_.empty() ? std::vector<Rank>{leader()} : hint_;
  std::vector<Rank> ranks;
  for (Rank r = 0; r < ranks_; ++r)
    if (r != rank_ && member(r) && !assembly_->entered.contains(r)) ranks.push_back(r);
  return ranks;
}

std::vector<Rank> Council::awaited_opinions() const {
  const Rank first = coordinator();
  if (first != rank_) return hint_.empty() ? std::vector<Rank>{first} : hint_;
  const auto found = agreements_.find(current_);
  if (found == agreements_.end() || !found->second.begun) return {rank_};
  const Agreement& agreement = found->second;
  std::vector<Rank> ranks;
  for (Rank r = 0; r < ranks_; ++r) {
    const bool has =
        agreement.proposed ? agreement.accepted.contains(r) : agreement.opinions.contains(r);
    if (r != rank_ && lives(r) && !has) ranks.push_back(r);
  }
  return ranks;
}

void Council::inquire() {
  const Rank first = assembly_ ? leader() : coordinator();
  if (first != rank_)
    post(first, Type::inquire, std::string(1, static_cast<char>(assembly_.has_value())));
}

}  // namespace tutti
