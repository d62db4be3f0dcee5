// Profiles and what was learnt: files, the exchange, and the feedback of a communicator.
#include "src/communicator/tuning.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "src/communicator/impl.h"
#include "src/cost/machine.h"
#include "src/cost/profile.h"

namespace tutti {
namespace {

constexpr size_t k_most_bytes = 1 << 20;  // of a file
constexpr size_t k_most_sent = 40 << 10;  // of a profile, as rank 0 tells it
constexpr size_t k_named = 8;             // ranks in a warning

uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ULL;
  return h | 1;
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::error_code error;
  if (!in || std::filesystem::is_directory(path, error))
    return Status(Code::invalid_argument, fmt::format("profile {}: cannot be read", path));
  std::string text(k_most_bytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > k_most_bytes)
    return Status(Code::invalid_argument,
                  fmt::format("profile {}: more than {} bytes", path, k_most_bytes));
  return text;
}

void append(std::string& out, std::string_view part) {
  const auto size = static_cast<uint32_t>(part.size());
  out.append(reinterpret_cast<const char*>(&size), 4);
  out += part;
}
bool take(std::string_view& in, std::string* part) {
  uint32_t size = 0;
  if (in.size() < 4) return false;
  std::memcpy(&size, in.data(), 4);
  if (in.size() - 4 < size) return false;
  *part = in.substr(4, size);
  in.remove_prefix(4 + size);
  return true;
}

}  // namespace

std::string learnt_file(const Config& config) {
  return config.profile.empty() ? std::string() : config.profile + ".learnt";
}

std::string tuning_section(const Placement& placement, const Config& config) {
  std::map<uint32_t, uint32_t> sizes;
  for (Rank r = 0; r < placement.ranks; ++r) ++sizes[placement.host_of(r)];
  std::vector<uint32_t> hosts;
  for (const auto& [host, size] : sizes)
    if (hosts.size() < 16) hosts.push_back(size);
  std::string machine = describe_machine();
  machine.resize(machine.rfind(';'));
  std::replace(machine.begin(), machine.end(), '\n', ' ');
  return fmt::format("{}; {} ranks on {} hosts of {}; transports {}", machine, placement.ranks,
                     placement.hosts, fmt::join(hosts, ","),
                     config.transports.empty()
                         ? std::string("all")
                         : fmt::format("{}", fmt::join(config.transports, ",")));
}

std::string levels_of(const Placement& placement) {
  const auto& levels = placement.hierarchy.level;
  if (levels.empty() || (levels.size() == 1 && levels[0] == placement.host)) return {};
  std::string text;
  for (const auto& level : levels) text += fmt::format("{};", fmt::join(level, ","));
  return fmt::format("{} levels {:016x}", levels.size(), hash(text));
}

Tuning Tuning::of_this_rank(const Config& config, Rank rank, const Placement& placement) {
  Tuning t;
  if (!config.feedback.empty() && config.feedback != "on" && config.feedback != "off") {
    t.error = Status(Code::invalid_argument,
                     "feedback: \"" + config.feedback + "\" is neither \"on\" nor \"off\"");
    return t;
  }
  t.feedback = config.feedback == "on";
  if (config.profile.empty()) return t;
  Result<std::string> text = read_file(config.profile);
  Result<Profile> profile = text ? parse_profile(*text) : Result<Profile>(text.status());
  if (!profile) {
    t.error = profile.status().with_context(config.profile);
    t.digest = 1;
    return t;
  }
  t.digest = hash(*text);
  if (rank != 0) return t;
  if (const std::string here = describe_machine(); !same_machine(profile->machine, here)) {
    t.ignored = fmt::format(
        "profile {} is from another machine (\"{}\", this is \"{}\"): the built-in one is used; "
        "tutti tune makes one of this machine",
        config.profile, profile->machine, here);
    return t;
  }
  std::vector<std::string> worlds = {"memory", "sockets"};
  if (placement.hosts > 1) worlds = {world_of(placement)};
  profile->corrections = profile->corrections.around(placement.ranks, worlds);
  t.profile = to_json(*profile, true);
  if (t.profile.size() > k_most_sent) {
    t.ignored = fmt::format("profile {}: corrections of {} bytes, at most {}: they are not used",
                            config.profile, t.profile.size(), k_most_sent);
    profile->corrections = {};
    t.profile = to_json(*profile, true);
  }
  t.feedback = config.feedback != "off";
  if (Result<std::string> file = read_file(learnt_file(config)))
    t.learnt = find_sections(*file, tuning_section(placement, config));
  return t;
}

std::string Tuning::encode(Rank rank) const {
  std::string out(reinterpret_cast<const char*>(&digest), 8);
  if (rank != 0) return out;
  out += feedback ? '1' : '0';
  out += static_cast<char>(error.code());
  append(out, error.message());
  append(out, profile);
  append(out, learnt);
  return out;
}

Result<Tuning> Tuning::decode(const std::string& text) {
  Tuning t;
  std::string message;
  const bool long_enough = text.size() >= 10;
  std::string_view rest = long_enough ? std::string_view(text).substr(10) : std::string_view();
  if (!long_enough || !take(rest, &message) || !take(rest, &t.profile) || !take(rest, &t.learnt))
    return Status(Code::remote_error, "rank 0 sent no tuning");
  t.feedback = text[8] == '1';
  if (text[9] != 0) t.error = Status(static_cast<Code>(text[9]), message);
  return t;
}

std::vector<std::string> Tuning::complaints(const std::vector<std::string>& all, Rank rank) const {
  std::vector<std::string> found;
  if (rank != 0) return found;
  if (!ignored.empty()) found.push_back(ignored);
  std::vector<Rank> others;
  for (Rank r = 1; r < all.size(); ++r) {
    uint64_t theirs = 0;
    if (all[r].size() >= 8) std::memcpy(&theirs, all[r].data(), 8);
    if (theirs != 0 && theirs != digest) others.push_back(r);
  }
  if (others.empty()) return found;
  const size_t more = others.size() > k_named ? others.size() - k_named : 0;
  others.resize(others.size() - more);
  found.push_back(fmt::format("rank{} {}{} {} another profile: rank 0's counts",
                              others.size() == 1 ? "" : "s", fmt::join(others, ", "),
                              more > 0 ? fmt::format(" and {} more", more) : std::string(),
                              others.size() + more == 1 ? "has" : "have"));
  return found;
}

Status write_learnt(const std::string& file, const std::string& section, const std::string& lines) {
  const Result<std::string> before = read_file(file);
  const std::string text = replace_section(before ? *before : std::string(), section, lines);
  const std::string draft = fmt::format("{}.{}", file, getpid());
  {
    std::ofstream out(draft, std::ios::binary | std::ios::trunc);
    out << text;
    out.close();
    if (!out) {
      ::unlink(draft.c_str());
      return {Code::system_error, "cannot write " + draft};
    }
  }
  if (::rename(draft.c_str(), file.c_str()) == 0) return {};
  ::unlink(draft.c_str());
  return {Code::system_error, "cannot write " + file};
}

// --- of a communicator

Status Communicator::Impl::make_planner(Placement placement, std::vector<TuneRule> rules,
                                        const std::string& agreed) {
  Result<Tuning> tuning = Tuning::decode(agreed);
  if (!tuning) return tuning.status();
  TUTTI_RETURN_IF_ERROR(tuning->error);
  Profile profile = builtin_profile();
  if (!tuning->profile.empty()) {
    Result<Profile> parsed = parse_profile(tuning->profile);
    if (!parsed) return parsed.status();
    profile = std::move(*parsed);
  }
  const std::string levels = levels_of(placement);
  if (rank_ == 0 && !tuning->profile.empty()) {
    learnt_file_ = learnt_file(config_);
    learnt_section_ = tuning_section(placement, config_);
    if (!levels.empty()) learnt_section_ += "; " + levels;
  }
  planner_ = std::make_unique<Planner>(std::move(placement), std::move(profile), std::move(rules),
                                       config_.deterministic);
  const Result<std::map<ShapeClass, Choice>> learnt =
      parse_learnt(find_section(tuning->learnt, levels));
  if (learnt) {
    for (const auto& [shape, choice] : *learnt) planner_->learn(shape, choice);
  } else if (rank_ == 0) {
    warn(fmt::format("{}: {}; it is begun anew", learnt_file_, learnt.status().message()));
  }
  if (tuning->feedback && !config_.deterministic && ranks_ > 1)
    feedback_ = std::make_unique<Feedback>();
  return {};
}

Planner::Call Communicator::Impl::planned(const Call& call) const {
  const ReduceOp op = call.reduction.op == ReduceOp::premul_sum ? ReduceOp::sum : call.reduction.op;
  return {call.collective, call.count * size_of(call.dtype), call.root, call.dtype, op};
}

Status Communicator::Impl::run_trial(Entry& entry, const Call& call) {
  Trial& trial = *entry.trial;
  const Clock::time_point start = Clock::now();
  TUTTI_RETURN_IF_ERROR(run_entry(entry, call));
  if (!trial.add(std::chrono::duration<double>(Clock::now() - start).count())) return {};
  const ShapeClass shape = trial.shape();
  if (!trial.next()) TUTTI_RETURN_IF_ERROR(conclude(trial));
  forget(shape);
  return {};
}

// The safe point: every rank is at the end of the same call.
Status Communicator::Impl::conclude(Trial& trial) {
  const std::vector<double> mine = trial.medians();
  std::vector<double> worst(mine.size());
  const Call exchange{Collective::all_reduce,
                      mine.data(),
                      worst.data(),
                      mine.size(),
                      DType::float64,
                      ReduceOp::max,
                      0};
  Result<Entry*> found = entry_for(exchange, key_of(exchange, false));
  if (!found) return found.status();
  TUTTI_RETURN_IF_ERROR(run_entry(**found, exchange));
  if (log_.on(LogLevel::info))
    for (size_t i = 0; i < worst.size(); ++i)
      log_.write(LogLevel::info,
                 fmt::format("measured: {} {} B: {} {:.1f} us", name(trial.shape().collective),
                             trial.shape().bytes, trial.choices()[i].algorithm, worst[i] * 1e6));
  feedback_->decide(*planner_, trial, worst);
  keep_learnt();
  return {};
}

// Calls of this class are planned anew.
void Communicator::Impl::forget(const ShapeClass& shape) {
  last_ = nullptr;
  std::erase_if(entries_, [&](const auto& e) {
    const CallKey& k = e.first;
    const ReduceOp op = k.op == ReduceOp::premul_sum ? ReduceOp::sum : k.op;
    return ShapeClass::of(k.collective, k.count * size_of(k.dtype), k.dtype, op) == shape;
  });
}

void Communicator::Impl::keep_learnt() const {
  if (learnt_file_.empty()) return;
  if (Status s = write_learnt(learnt_file_, learnt_section_, to_text(planner_->learnt())); !s.ok())
    warn(s.message() + ": what was learnt is not kept");
}

Result<double> Communicator::Impl::estimate(const Call& call) {
  TUTTI_RETURN_IF_ERROR(validate_shape(call));
  if (call.collective == Collective::all_to_all_v)
    return Status(Code::invalid_argument,
                  fmt::format("{} has no count to estimate from", name(call.collective)));
  return planner_->estimate(planned(call));
}

}  // namespace tutti
