// Council: what the ranks of a communicator settle among themselves when it is broken, or about to
// be: that it is revoked, who is gone, what they agree on, and who goes on together.
//
// A state machine of one rank, without sockets, threads or clocks: events come in (letters, the
// news that a rank is gone, what the program asks for), letters go out. Whoever runs it delivers
// letters between two ranks in order or not at all, and reports a rank as gone only when that is
// certain: its process has ended, or it has destroyed its communicator. A silent rank is not gone,
// and then nothing is decided: callers time out and name it. So two halves of a divided network can
// never decide differently. docs/fault_tolerance.md explains the protocol.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

class Council {
 public:
  struct Letter {
    Rank to = 0;
    std::string text;
  };
  // What is agreed on.
  struct Verdict {
    uint64_t flags = ~uint64_t{0};
    std::set<Rank> gone;
    bool operator==(const Verdict&) const = default;
  };

  Council(Rank rank, uint32_t ranks) : rank_(rank), ranks_(ranks) {}

  // --- events
  void receive(Rank from, std::string_view text);
  void lost(Rank rank);  // this rank is certainly gone
  std::vector<Letter> take_letters() { return std::exchange(letters_, {}); }
  const std::set<Rank>& gone() const { return gone_; }

  // --- revocation: a flood along the ring of the living, 1, 2, 4, ... places to both sides
  void revoke(const std::string& record);
  const std::optional<std::string>& revoked() const { return revoked_; }

  // --- notes: what ranks want each other to know, the latest of each
  static constexpr size_t k_most_note = 2048;  // bytes; longer ones are not kept
  void note(const std::string& text);
  const std::map<Rank, std::string>& notes() const { return notes_; }

  // --- agreement, the same number of times on every rank that lives
  // Begins the next agreement, or resumes the one that no verdict came for (the flags of all
  // attempts count).
  void agree(uint64_t flags);
  // The verdict of what agree() began; taking it ends this agreement here.
  std::optional<Verdict> take_verdict();

  // --- assembly: the ranks that are not in `excluded` come together; the lowest one leads. It
  // learns that all are there (assembled()), and then tells them all a word; or anybody learns why
  // not.
  void assemble(const std::set<Rank>& excluded);
  bool assembled() const;  // at the leader
  void tell(const std::string& word);
  const std::optional<Result<std::string>>& word() const { return word_; }
  // Ends the attempt. Not ok: the others need not wait for this rank.
  void disperse(const Status& why);

  // Whom the current agreement or assembly waits for, as far as this rank knows. inquire() asks the
  // coordinator, who knows best.
  std::vector<Rank> awaited() const;
  void inquire();

 private:
  enum class Type : uint8_t {
    revoke = 1,  // record
    convene,     // coordinator -> all: agreement `number` is on; who is gone
    opinion,     // -> coordinator: flags, who is gone, what this rank has been proposed before
    propose,     // coordinator -> all
    accept,      // -> coordinator
    verdict,     // to all, and to whom asks late
    summon,      // leader -> all: an assembly is on; who is excluded
    enter,       // -> leader: attempt, who is excluded
    word,        // leader -> all: attempt, word
    refuse,      // anybody: attempt, why not
    inquire,     // -> coordinator or leader: whom do we wait for?
    awaited,     // the answer
    note,        // to all: text
  };
  // A verdict that a coordinator has proposed. One that a higher coordinator proposes replaces it.
  struct Proposal {
    Rank coordinator = 0;
    Verdict verdict;
  };
  struct Opinion {
    uint64_t flags = 0;
    std::optional<Proposal> heard;
  };
  struct Agreement {
    bool begun = false;  // by the program here
    uint64_t flags = ~uint64_t{0};
    std::optional<Rank> sent_to;  // the coordinator that has this rank's opinion
    std::optional<Proposal> heard;
    std::optional<Verdict> verdict;
    // As coordinator:
    bool convened = false;
    bool proposed = false;
    std::map<Rank, Opinion> opinions;
    std::set<Rank> accepted;
  };
  struct Assembly {
    uint64_t attempt = 0;
    std::set<Rank> excluded;
    std::set<Rank> entered;  // at the leader
  };
  struct Entry {
    uint64_t attempt = 0;
    std::set<Rank> excluded;
    Status withdrawn;  // why the rank has given up since
  };
  // Ranks that come to a leader after it has given up.
  struct Debt {
    std::set<Rank> excluded;
    std::set<Rank> to;
    Status why;
  };

  bool lives(Rank rank) const { return !gone_.contains(rank); }
  Rank coordinator() const;
  Rank leader() const;
  bool member(Rank rank) const { return !assembly_->excluded.contains(rank); }
  std::optional<Rank> next_living(Rank from, uint32_t distance, bool upwards) const;
  void post(Rank to, Type type, const std::string& text);
  void post_to_living(Type type, const std::string& text);
  void spread_revocation();
  void learn(const std::set<Rank>& gone);

  void advance(uint32_t number);
  void coordinate(uint32_t number, Agreement& agreement);
  void propose_to(Rank rank, uint32_t number, const Agreement& agreement);
  Verdict choose(const Agreement& agreement) const;
  bool heard_all(const Agreement& agreement) const;
  void decide(uint32_t number, Agreement& agreement, const Verdict& verdict);
  void announce(Rank to, uint32_t number, const Verdict& verdict);
  void on_agreement_letter(Rank from, Type type, std::string_view text);

  std::vector<Rank> awaited_opinions() const;
  std::vector<Rank> awaited_here() const;  // in the assembly

  void refuse(Rank to, uint64_t attempt, const Status& why);
  Status disagreement(Rank other, const std::set<Rank>& theirs) const;
  void check_assembly();
  void end_assembly(const Status& why);
  void on_assembly_letter(Rank from, Type type, std::string_view text);

  const Rank rank_;
  const uint32_t ranks_;
  std::vector<Letter> letters_;
  std::set<Rank> gone_;
  std::optional<std::string> revoked_;
  std::set<Rank> told_;  // of the revocation
  std::map<Rank, std::string> notes_;

  uint32_t current_ = 1;  // the agreement that the program is in, or will begin next
  std::map<uint32_t, Agreement> agreements_;

  uint64_t attempts_ = 0;
  std::optional<Assembly> assembly_;
  std::map<Rank, Entry> entries_;  // at a leader, also before it comes itself
  std::optional<Debt> owed_;
  std::optional<Result<std::string>> word_;
  std::vector<Rank> hint_;  // the coordinator's answer to inquire()
};

}  // namespace tutti
