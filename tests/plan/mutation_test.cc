// Mutation testing of verify(): take the plans of every algorithm and collective at 2..4 ranks,
// change one field of one step, and see whether verify notices. Survivors are judged by the model
// checker (exhaustive interleavings, no shared code): a survivor that it finds wrong is a miss.
//
// TUTTI_MUTANTS=200000 in the environment draws a larger sample. docs/verification.md explains the
// survivors.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <random>

#include "src/algorithms/algorithms.h"
#include "src/plan/text.h"
#include "src/plan/verify.h"
#include "tests/plan/model_checker.h"
#include "tests/plan/sample_plans.h"

namespace tutti {
namespace {

constexpr uint64_t k_max_states = 60000;

struct Subject {
  std::string name;
  Shape shape;
  TablePlan::Table table;
};

void add_subjects(const Algorithm& a, PlanRequest request, std::vector<Subject>& subjects) {
  for (int c = 0; c < k_collectives; ++c)
    for (bool in_place : {false, true}) {
      request.collective = static_cast<Collective>(c);
      request.in_place = in_place;
      request.root = request.ranks - 1;
      if (!a.supports(request).ok()) continue;
      const PlanPtr plan = a.make(request);
      subjects.push_back({std::string(a.name) + " " + std::string(name(request.collective)) + " " +
                              std::to_string(request.ranks) + (in_place ? " in place" : ""),
                          plan->shape(), sample::table_of(*plan)});
    }
}

std::vector<Subject> all_subjects() {
  std::vector<Subject> subjects;
  for (const Algorithm& a : algorithms())
    for (uint32_t n : {2u, 3u, 4u}) {
      PlanRequest request;
      request.ranks = n;
      request.chunks = 2;
      if (n == 4) request.hierarchy = Hierarchy::even(4, {2});
      add_subjects(a, request, subjects);
    }
  return subjects;
}

// Fields that the op does not use are zero in a canonical plan; a mutant must not differ by them.
Step canonical(Step s) {
  const bool message = s.op == Op::send || s.op == Op::recv;
  const bool local = s.op == Op::signal || s.op == Op::wait;
  if (local) s.count = 0;
  if (!writes_dst(s.op) || (message && s.count == 0)) {
    s.dst = 0;
    s.dst_buffer = Buffer::input;
  }
  if (!reads_src(s.op) || (message && s.count == 0)) {
    s.src = 0;
    s.src_buffer = Buffer::input;
  }
  if (s.op == Op::copy || s.op == Op::reduce) s.peer = 0;
  if (s.op != Op::recv_reduce && s.op != Op::reduce) s.last = false;
  return s;
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  uint32_t below(uint64_t n) { return static_cast<uint32_t>(random_() % n); }

  // One field of the step, changed; the same step when the draw changes nothing.
  Step mutate(const Shape& shape, Step s) {
    // Mostly in range: what is out of range is caught too easily to be interesting.
    const uint32_t chunks = below(8) > 0 ? 2 * shape.chunks : shape.ranks * shape.chunks + 1;
    switch (below(8)) {
      case 0:
        s.op = static_cast<Op>(below(k_ops));
        break;
      case 1:
        s.peer = below(std::max(shape.ranks, shape.lanes));
        break;
      case 2:
        s.dst = below(chunks);
        break;
      case 3:
        s.src = below(chunks);
        break;
      case 4:
        s.dst_buffer = static_cast<Buffer>(below(k_buffers));
        break;
      case 5:
        s.src_buffer = static_cast<Buffer>(below(k_buffers));
        break;
      case 6:
        s.count = below(shape.chunks + 2);
        break;
      default:
        s.last = !s.last;
        break;
    }
    return canonical(s);
  }

 private:
  std::mt19937_64 random_;
};

struct Tally {
  uint64_t mutants = 0, caught = 0, equivalent = 0, missed = 0, undecided = 0;
  uint64_t judged_catches = 0, alarms = 0;  // of a sample of the caught: how many were wrong / fine
  std::map<std::string, uint64_t> survivors;  // the equivalent, by kind of change
  std::map<std::string, uint64_t> by_proof;
  std::map<std::string, uint64_t> alarm_reasons;
};

std::string first_failed(const VerifyReport& r) {
  const std::pair<const char*, Verdict> proofs[] = {
      {"structure", r.structure},         {"matching", r.matching},   {"progress", r.progress},
      {"postcondition", r.postcondition}, {"same_bits", r.same_bits}, {"pull_races", r.pull_races},
      {"push_races", r.push_races}};
  for (const auto& [proof, verdict] : proofs)
    if (verdict != Verdict::ok) return proof;
  return "none";
}

// Verifies one mutant, and has it judged where that tells something.
void examine(const Subject& subject, const TablePlan& mutant, const std::string& what,
             const std::string& kind, bool judge_catch, Tally& tally) {
  ++tally.mutants;
  const VerifyReport report = verify(mutant);
  if (report.ok()) {
    const model::Opinion opinion = model::judge(mutant, k_max_states);
    switch (opinion.outcome) {
      case model::Outcome::right:
        ++tally.equivalent;
        ++tally.survivors[kind];
        break;
      case model::Outcome::undecided:
        ++tally.undecided;
        break;
      case model::Outcome::wrong:
        ++tally.missed;
        std::cout << "missed: " << subject.name << ": " << what << ": " << opinion.why << "\n";
    }
    return;
  }
  ++tally.caught;
  const std::string proof = first_failed(report);
  ++tally.by_proof[proof];
  if (!judge_catch) return;
  ++tally.judged_catches;
  if (model::judge(mutant, k_max_states / 10).outcome == model::Outcome::right) {
    ++tally.alarms;
    ++tally.alarm_reasons[proof];
  }
}

void print(const char* title, const Tally& t) {
  std::cout << title << ": " << t.mutants << " mutants, " << t.caught << " caught (";
  for (const auto& [proof, count] : t.by_proof) std::cout << proof << " " << count << " ";
  std::cout << "), " << t.equivalent << " survivors proven equivalent, " << t.undecided
            << " undecided, " << t.missed << " missed\n  of " << t.judged_catches
            << " catches judged too, " << t.alarms << " have no wrong outcome (";
  for (const auto& [proof, count] : t.alarm_reasons) std::cout << proof << " " << count << " ";
  std::cout << ")\n  survivors by kind: ";
  for (const auto& [kind, count] : t.survivors) std::cout << kind << " " << count << "; ";
  std::cout << "\n";
}

// "recv dst_buffer"
std::string changed_field(const Step& a, const Step& b) {
  std::string field = "last";
  if (a.op != b.op)
    field = "op to " + std::string(name(b.op));
  else if (a.peer != b.peer)
    field = "peer";
  else if (a.count != b.count)
    field = "count";
  else if (a.dst_buffer != b.dst_buffer)
    field = "dst_buffer";
  else if (a.src_buffer != b.src_buffer)
    field = "src_buffer";
  else if (a.dst != b.dst)
    field = "dst";
  else if (a.src != b.src)
    field = "src";
  return std::string(name(a.op)) + " " + field;
}

uint64_t wanted(uint64_t usual) {
  const char* text = std::getenv("TUTTI_MUTANTS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : usual;
}

void expect_caught(const Tally& t) {
  const double guilty = static_cast<double>(t.caught + t.missed);
  EXPECT_GE(static_cast<double>(t.caught), 0.99 * guilty);
  // What the judge could not decide must not be enough to change the picture.
  EXPECT_LE(t.undecided, t.mutants / 100);
}

struct Place {
  uint32_t subject, rank, lane, step;
};

std::vector<Place> all_places(const std::vector<Subject>& subjects) {
  std::vector<Place> places;
  for (uint32_t s = 0; s < subjects.size(); ++s)
    for (uint32_t r = 0; r < subjects[s].table.size(); ++r)
      for (uint32_t l = 0; l < subjects[s].table[r].size(); ++l)
        for (uint32_t i = 0; i < subjects[s].table[r][l].size(); ++i)
          places.push_back({s, r, l, i});
  return places;
}

TEST(Mutation, OriginalsAreRight) {
  uint64_t undecided = 0;
  for (const Subject& s : all_subjects()) {
    const TablePlan plan("original", s.shape, s.table);
    const VerifyReport report = verify(plan);
    EXPECT_TRUE(report.ok()) << s.name << ": " << report.problem;
    const model::Opinion opinion = model::judge(plan, k_max_states);
    EXPECT_NE(opinion.outcome, model::Outcome::wrong) << s.name << ": " << opinion.why;
    undecided += opinion.outcome == model::Outcome::undecided;
  }
  EXPECT_LE(undecided, all_subjects().size() / 10);
}

TEST(Mutation, OneFieldOfOneStepIsNoticed) {
  const std::vector<Subject> subjects = all_subjects();
  const std::vector<Place> places = all_places(subjects);
  Mutator mutator(20240607);
  Tally tally;
  for (const uint64_t count = wanted(40000); tally.mutants < count;) {
    const Place& p = places[mutator.below(places.size())];
    const Subject& subject = subjects[p.subject];
    const Step& original = subject.table[p.rank][p.lane][p.step];
    const Step changed = mutator.mutate(subject.shape, original);
    if (changed == original) continue;
    TablePlan::Table table = subject.table;
    table[p.rank][p.lane][p.step] = changed;
    examine(subject, TablePlan("mutant", subject.shape, std::move(table)),
            "rank " + std::to_string(p.rank) + " lane " + std::to_string(p.lane) + " step " +
                std::to_string(p.step) + " " + to_text(original) + " -> " + to_text(changed),
            changed_field(original, changed), tally.mutants % 20 == 0, tally);
  }
  print("one field", tally);
  expect_caught(tally);
}

// Order is what races are about: two neighbouring steps of a lane change places.
TEST(Mutation, SwappedStepsAreNoticed) {
  const std::vector<Subject> subjects = all_subjects();
  const std::vector<Place> places = all_places(subjects);
  Mutator mutator(7);
  Tally tally;
  for (const uint64_t count = wanted(40000) / 8; tally.mutants < count;) {
    const Place& p = places[mutator.below(places.size())];
    const Subject& subject = subjects[p.subject];
    const auto& lane = subject.table[p.rank][p.lane];
    if (p.step + 1 == lane.size() || lane[p.step] == lane[p.step + 1]) continue;
    TablePlan::Table table = subject.table;
    std::swap(table[p.rank][p.lane][p.step], table[p.rank][p.lane][p.step + 1]);
    examine(subject, TablePlan("mutant", subject.shape, std::move(table)),
            "rank " + std::to_string(p.rank) + " lane " + std::to_string(p.lane) + " steps " +
                std::to_string(p.step) + " and the next swapped",
            std::string(name(lane[p.step].op)) + "/" + std::string(name(lane[p.step + 1].op)),
            tally.mutants % 20 == 0, tally);
  }
  print("swapped steps", tally);
  expect_caught(tally);
}

}  // namespace
}  // namespace tutti
