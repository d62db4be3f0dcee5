// The council over a simulated network: letters of a pair in order, everything else at random;
// ranks die between any two events. What must hold: nobody who gets a verdict gets another one than
// anybody else, and when the dust has settled every living rank has one.
#include "src/communicator/bootstrap/council.h"

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <random>

namespace tutti {
namespace {

class Network {
 public:
  Network(uint32_t ranks, uint32_t seed) : random(seed), ranks_(ranks), channels_(ranks * ranks) {
    for (Rank r = 0; r < ranks; ++r) councils.push_back(std::make_unique<Council>(r, ranks));
    knows_.resize(ranks * ranks, false);
  }

  bool lives(Rank r) const { return councils[r] != nullptr; }
  void act(Rank r, const std::function<void(Council&)>& what) {
    if (!lives(r)) return;
    what(*councils[r]);
    for (Council::Letter& l : councils[r]->take_letters())
      channels_[r * ranks_ + l.to].push_back(std::move(l.text));
  }
  // The rank's last letters may or may not arrive: a random part of each channel is lost.
  void kill(Rank r) {
    councils[r].reset();
    for (Rank to = 0; to < ranks_; ++to) {
      auto& channel = channels_[r * ranks_ + to];
      channel.resize(random() % (channel.size() + 1));
    }
  }
  // One random event: a letter arrives, or a rank learns of a death (after that rank's letters).
  // False when there is nothing left to happen.
  bool step() {
    std::vector<std::pair<Rank, Rank>> events;
    for (Rank from = 0; from < ranks_; ++from)
      for (Rank to = 0; to < ranks_; ++to) {
        if (from == to || !lives(to)) continue;
        const bool letter = !channels_[from * ranks_ + to].empty();
        const bool news = !lives(from) && !knows_[to * ranks_ + from];
        if (letter || news) events.emplace_back(from, to);
      }
    if (events.empty()) return false;
    const auto [from, to] = events[random() % events.size()];
    auto& channel = channels_[from * ranks_ + to];
    if (!channel.empty()) {
      const std::string text = std::move(channel.front());
      channel.pop_front();
      act(to, [&, sender = from](Council& c) { c.receive(sender, text); });
    } else {
      knows_[to * ranks_ + from] = true;
      act(to, [&, dead = from](Council& c) { c.lost(dead); });
    }
    return true;
  }

  std::mt19937 random;
  std::vector<std::unique_ptr<Council>> councils;

 private:
  const uint32_t ranks_;
  std::vector<std::deque<std::string>> channels_;
  std::vector<bool> knows_;
};

struct Outcome {
  std::vector<std::vector<Council::Verdict>> verdicts;  // by rank, in order; of the dead, too
};

// Every rank agrees `rounds` times; up to `deaths` ranks die meanwhile.
Outcome run_agreements(Network& net, uint32_t ranks, uint32_t rounds, uint32_t deaths) {
  Outcome outcome;
  outcome.verdicts.resize(ranks);
  std::vector<bool> waiting(ranks, false);
  auto collect = [&](Rank r) {
    if (!net.lives(r)) return;
    if (auto verdict = waiting[r] ? net.councils[r]->take_verdict() : std::nullopt) {
      outcome.verdicts[r].push_back(*verdict);
      waiting[r] = false;
    }
  };
  for (bool busy = true; busy;) {
    busy = false;
    const Rank r = net.random() % ranks;
    if (deaths > 0 && net.random() % 40 == 0 && net.lives(r)) {
      net.kill(r);
      --deaths;
    }
    for (Rank i = 0; i < ranks; ++i) {
      const Rank caller = (r + i) % ranks;
      collect(caller);
      const bool due =
          net.lives(caller) && !waiting[caller] && outcome.verdicts[caller].size() < rounds;
      if (due && net.random() % 3 == 0) {
        waiting[caller] = true;
        net.act(caller, [&](Council& c) { c.agree(~(uint64_t{1} << (caller % 64))); });
      }
      busy |= due;
    }
    for (uint32_t i = net.random() % 4; i > 0; --i) busy |= net.step();
    busy |= net.step();
    for (Rank i = 0; i < ranks; ++i) collect(i);
  }
  return outcome;
}

TEST(Council, AgreesWhateverDiesWhenever) {
  for (uint32_t seed = 0; seed < 4000; ++seed) {
    const uint32_t ranks = 1 + seed % 9, rounds = 3, deaths = seed % (ranks + 1);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Network net(ranks, seed);
    const Outcome outcome = run_agreements(net, ranks, rounds, std::min(deaths, ranks - 1));
    std::vector<std::optional<Council::Verdict>> common(rounds);
    for (Rank r = 0; r < ranks; ++r) {
      if (net.lives(r)) {
        ASSERT_EQ(outcome.verdicts[r].size(), rounds) << "rank " << r << " waits";
      }
      for (uint32_t k = 0; k < outcome.verdicts[r].size(); ++k) {
        const Council::Verdict& verdict = outcome.verdicts[r][k];
        if (!common[k]) common[k] = verdict;
        ASSERT_EQ(verdict, *common[k]) << "agreement " << k << " at rank " << r;
        ASSERT_FALSE(verdict.gone.contains(r));
      }
    }
    for (const auto& verdict : common) {
      if (!verdict) continue;
      for (Rank gone : verdict->gone) ASSERT_FALSE(net.lives(gone));
      // AND of what the survivors passed: each of them cleared its own bit, and only that.
      for (Rank r = 0; r < ranks; ++r) ASSERT_EQ(verdict->flags >> r & uint64_t{net.lives(r)}, 0u);
      ASSERT_EQ(verdict->flags | ((uint64_t{1} << ranks) - 1), ~uint64_t{0});
    }
  }
}

TEST(Council, ASilentRankIsNeitherDeadNorOutvoted) {
  Network net(4, 1);
  for (Rank r : {0u, 1u, 3u}) net.act(r, [](Council& c) { c.agree(7); });
  while (net.step()) {
  }
  for (Rank r : {0u, 1u, 3u}) {
    EXPECT_EQ(net.councils[r]->take_verdict(), std::nullopt);
    net.act(r, [](Council& c) { c.inquire(); });
  }
  while (net.step()) {
  }
  for (Rank r : {0u, 1u, 3u}) EXPECT_EQ(net.councils[r]->awaited(), std::vector<Rank>{2});
  // Another attempt resumes, with the flags of both; then the late one comes.
  net.act(1, [](Council& c) { c.agree(6); });
  net.act(2, [](Council& c) { c.agree(15); });
  while (net.step()) {
  }
  for (Rank r = 0; r < 4; ++r) {
    const auto verdict = net.councils[r]->take_verdict();
    ASSERT_TRUE(verdict.has_value());
    EXPECT_EQ(verdict->flags, 6u);
  }
}

TEST(Council, RevocationReachesAllWhoLive) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    const uint32_t ranks = 2 + seed % 40;
    Network net(ranks, seed);
    for (uint32_t dead = seed % 7; dead > 0; --dead) {
      const Rank r = net.random() % ranks;
      if (r != 0 && net.lives(r)) net.kill(r);
    }
    net.act(0, [](Council& c) { c.revoke("why"); });
    while (net.step()) {
    }
    for (Rank r = 0; r < ranks; ++r)
      if (net.lives(r)) {
        EXPECT_EQ(net.councils[r]->revoked(), "why") << seed << ": rank " << r;
      }
  }
}

TEST(Council, AssemblesOnceAllHaveCome) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    Network net(6, seed);
    net.kill(0);
    net.kill(4);
    const std::set<Rank> out = {0, 4};
    std::vector<Rank> order = {1, 2, 3, 5};
    std::shuffle(order.begin(), order.end(), net.random);
    for (size_t i = 0; i < order.size(); ++i) {
      for (Rank r : order) EXPECT_FALSE(net.councils[r]->assembled());
      net.act(order[i], [&](Council& c) { c.assemble(out); });
      for (int k = 0; k < 5; ++k) net.step();
    }
    while (net.step()) {
    }
    ASSERT_TRUE(net.councils[1]->assembled());
    net.act(1, [](Council& c) { c.tell("ticket"); });
    while (net.step()) {
    }
    for (Rank r : order) {
      ASSERT_TRUE(net.councils[r]->word().has_value());
      EXPECT_EQ(**net.councils[r]->word(), "ticket");
    }
  }
}

TEST(Council, ADeathDuringAnAssemblyIsToldToAllAndTheNextOneWorks) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    Network net(5, seed);
    const Rank dies = seed % 5;
    for (Rank r = 0; r < 5; ++r) net.act(r, [](Council& c) { c.assemble({}); });
    for (uint32_t k = 0; k < seed % 4; ++k) net.step();
    net.kill(dies);
    while (net.step()) {
    }
    std::set<Rank> out = {dies};
    for (Rank r = 0; r < 5; ++r) {
      if (!net.lives(r)) continue;
      if (net.councils[r]->assembled()) continue;  // all had come before: the join will find out
      ASSERT_TRUE(net.councils[r]->word().has_value()) << "rank " << r;
      ASSERT_NE(net.councils[r]->word()->status().message().find("rank " + std::to_string(dies)),
                std::string::npos);
      net.act(r, [](Council& c) { c.disperse(c.word()->status()); });
    }
    for (Rank r = 0; r < 5; ++r)
      net.act(r, [&](Council& c) {
        c.disperse({});
        c.assemble(out);
      });
    while (net.step()) {
    }
    EXPECT_TRUE(net.councils[dies == 0 ? 1 : 0]->assembled());
  }
}

TEST(Council, OtherSetsRefuseEachOther) {
  for (uint32_t seed = 0; seed < 100; ++seed) {
    Network net(5, seed);
    net.kill(4);
    for (Rank r = 0; r < 4; ++r)
      net.act(r, [&](Council& c) {
        c.assemble(r == 2 ? std::set<Rank>{0, 4} : std::set<Rank>{4});
      });
    while (net.step()) {
    }
    for (Rank r = 0; r < 4; ++r) {
      ASSERT_TRUE(net.councils[r]->word().has_value()) << "rank " << r;
      const Status why = net.councils[r]->word()->status();
      EXPECT_EQ(why.code(), Code::invalid_usage) << why.to_string();
      EXPECT_NE(why.message().find("rank 2 excludes {0, 4}"), std::string::npos) << why.to_string();
    }
  }
}

TEST(Council, NotesReachEveryoneWhoLives) {
  Network net(4, 1);
  net.kill(3);
  net.act(0, [](Council& c) { c.note("first"); });
  net.act(0, [](Council& c) { c.note("second"); });
  net.act(2, [](Council& c) { c.note(std::string(Council::k_most_note + 1, 'x')); });
  while (net.step()) {
  }
  using Notes = std::map<Rank, std::string>;
  EXPECT_EQ(net.councils[1]->notes(), (Notes{{0, "second"}}));
  EXPECT_EQ(net.councils[2]->notes(), (Notes{{0, "second"}}));
  EXPECT_EQ(net.councils[0]->notes(), Notes{});
}

TEST(Council, GarbageIsIgnored) {
  std::mt19937 random(5);
  Council council(1, 4);
  council.agree(1);
  for (int i = 0; i < 200000; ++i) {
    std::string text(random() % 40, '\0');
    for (char& c : text) c = static_cast<char>(random() % (random() % 2 ? 14 : 256));
    if (!text.empty() && text[0] == 6) text[0] = 5;  // a verdict is a verdict
    council.receive(random() % 6, text);
    council.take_letters();
  }
}

}  // namespace
}  // namespace tutti
