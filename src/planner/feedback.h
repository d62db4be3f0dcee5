// Feedback: prices corrected by measurements. Where several choices are priced close to each other
// (Planner::contenders), the calls of one count take turns with them; when each has had its turns,
// the ranks agree on the times (the communicator does that, at the end of a call) and the fastest
// serves the class of shapes from then on. Every rank counts the same calls, so all are at the same
// turn without talking.
//
// What was learnt is kept in a file by placement, as lines of text; see README.md.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/planner/planner.h"
#include "tutti/status.h"

namespace tutti {

class Trial {
 public:
  static constexpr uint32_t k_warm_up = 2;  // calls of a turn that are not counted
  static constexpr uint32_t k_samples = 7;

  Trial(ShapeClass shape, uint64_t count, std::vector<Choice> choices);

  const ShapeClass& shape() const { return shape_; }
  uint64_t count() const { return count_; }  // other counts of the class take no part
  const Choice& current() const { return choices_[turn_]; }
  const std::vector<Choice>& choices() const { return choices_; }
  // What the call that just ended took. True when its choice has had its turns.
  bool add(double seconds);
  // True when there is one more choice to try; it is current now.
  bool next();
  // This rank's, by choice; when all have had their turns.
  std::vector<double> medians() const;

 private:
  ShapeClass shape_;
  uint64_t count_;
  std::vector<Choice> choices_;
  size_t turn_ = 0;
  uint32_t calls_ = 0;
  std::vector<std::vector<double>> samples_;
};

class Feedback {
 public:
  // The trial that calls of this class and count take part in; null where there is none (any more).
  Trial* trial_for(Planner& planner, const Planner::Call& call, uint64_t count);
  // `worst`: by choice, the largest of all ranks' medians. The fastest is learnt.
  void decide(Planner& planner, const Trial& trial, const std::vector<double>& worst);

 private:
  std::map<ShapeClass, std::unique_ptr<Trial>> trials_;  // null: decided, or nothing to decide
};

// One line for each: "all_reduce 65536 float32 sum ring 0 0".
std::string to_text(const std::map<ShapeClass, Choice>& learnt);
// Errors: invalid_argument naming the line.
Result<std::map<ShapeClass, Choice>> parse_learnt(std::string_view text);

// The file: sections, each headed by "[PLACEMENT]". `section` is empty when the file has none.
std::string find_section(std::string_view file, std::string_view placement);
// All sections of `placement` and of "PLACEMENT; DETAIL", headed by "[]" and "[DETAIL]".
std::string find_sections(std::string_view file, std::string_view placement);
std::string replace_section(std::string_view file, std::string_view placement,
                            std::string_view lines);

}  // namespace tutti
