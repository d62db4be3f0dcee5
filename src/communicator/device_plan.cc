#include "src/communicator/device_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/cuda/ranges.h"
#include "src/cuda/shot_launches.h"

namespace tutti {
namespace {

using cuda::Wire;

// Blocks for which one step of more bytes beats two steps, where nothing is known.
constexpr uint64_t k_small = 32768;
// Assumed, where ranks share a device: seconds until the next process has it, and of a byte that
// one of them moves.
constexpr double k_turn = 1e-4, k_shared_byte = 2e-12;

std::optional<Wire> wire_of(std::optional<WireProtocol> protocol) {
  if (!protocol) return std::nullopt;
  return *protocol == WireProtocol::packets ? Wire::packets : Wire::slots;
}
WireProtocol protocol_of(Wire wire) {
  return wire == Wire::packets ? WireProtocol::packets : WireProtocol::slots;
}

std::string label(const Choice& choice) {
  const bool level = choice.hierarchical() && choice.mapping > 0;
  return fmt::format("{}{}{}{}", choice.algorithm,
                     choice.chunks > 0 ? fmt::format("@{}", choice.chunks) : "",
                     choice.along_links() ? " along the links" : "",
                     level ? fmt::format(" on level {} alone", choice.mapping - 1) : "");
}

Planner::Call planned(const DevicePlanner::Call& call) {
  return {call.collective, call.bytes(), call.root, call.dtype, call.op};
}

}  // namespace

DevicePlanner::DevicePlanner(DeviceWorld world, Profile profile, std::vector<TuneRule> rules,
                             bool deterministic)
    : world_(std::move(world)),
      profile_(std::move(profile)),
      rules_(std::move(rules)),
      deterministic_(deterministic),
      plans_(world_.hosts != nullptr ? device_placement(*world_.hosts)
                                     : device_placement(world_.ranks, world_.topology),
             device_profile(profile_, WireProtocol::slots), {}, deterministic) {}

const TuneRule* DevicePlanner::rule_for(const Call& call) const {
  for (const TuneRule& rule : rules_)
    if (rule.applies(call.collective, call.bytes())) return &rule;
  return nullptr;
}

// --- plans

// Messages cross in windows, so that a form for one buffer and one for two may meet, if only they
// exchange the same. The direct all_reduces read an input once, before they write: their form for
// one buffer serves two. Of all_to_all, direct sends every block before its place is received into:
// its form for two serves one.
Result<DevicePlanner::Form> DevicePlanner::form(const Choice& choice, const Call& call,
                                                uint32_t ranks) {
  if (call.collective == Collective::all_to_all) {
    if (choice.algorithm == "direct") return Form{false, false};
    return Status(Code::unsupported, "on devices all_to_all is direct");
  }
  const Algorithm* algorithm = find_algorithm(choice.algorithm);
  const bool direct = choice.algorithm.starts_with("direct_");
  if (call.collective == Collective::all_reduce && direct) return Form{true, false};
  if (algorithm == nullptr || !algorithm->in_place_differs(call.collective, ranks))
    return Form{call.in_place, false};
  if (call.collective == Collective::all_reduce) return Form{true, !call.in_place};
  return Status(Code::unsupported,
                fmt::format("{} exchanges other messages in place", choice.algorithm));
}

Result<PlanPtr> DevicePlanner::plan(const Choice& choice, const Call& call, bool in_place) {
  const Algorithm* algorithm = find_algorithm(choice.algorithm);
  if (algorithm == nullptr)
    return Status(Code::unsupported, "there is no algorithm '" + choice.algorithm + "'");
  PlanRequest request;
  request.collective = call.collective;
  request.ranks = world_.ranks;
  request.root = call.root;
  request.in_place = in_place;
  request.chunks = choice.chunks;
  request.hierarchy = plans_.placement().hierarchy;
  TUTTI_RETURN_IF_ERROR(algorithm->supports(request));
  return plans_.plan(planned(call), choice, in_place);
}

Status DevicePlanner::serves(const Choice& choice, const Call& call, std::optional<Wire> wire) {
  for (bool in_place : {false, true}) {
    Call either = call;
    either.in_place = in_place;
    Result<Form> form = this->form(choice, either, world_.ranks);
    if (!form) return form.status();
    Result<PlanPtr> plan = this->plan(choice, either, form->in_place);
    if (!plan) return plan.status();
    TUTTI_RETURN_IF_ERROR(
        cuda::fit_cut(*plan, call.count, call.dtype, world_.window, world_.blocks, wire).status());
    const auto [known, fresh] = buildable_.try_emplace(plan->get(), *plan, Status());
    if (fresh) known->second.second = cuda::can_build(*plan, world_.window);
    TUTTI_RETURN_IF_ERROR(known->second.second);
  }
  return {};
}

// --- choices

Result<DevicePlanner::Decision> DevicePlanner::by_rule(const Call& call, const TuneRule& rule) {
  Decision d;
  d.choice.algorithm = rule.algorithm;
  d.choice.chunks = rule.chunks;
  d.wire = wire_of(rule.protocol);
  d.why =
      fmt::format("the rule {}:{}-{}:{} of TUTTI_TUNE says so", name(rule.collective), rule.from,
                  rule.to == UINT64_MAX ? "inf" : fmt::format("{}", rule.to), rule.algorithm);
  TUTTI_RETURN_IF_ERROR(
      serves(d.choice, call, d.wire).with_context("tune, on devices: " + rule.algorithm));
  Decision along = d;
  along.choice.mapping = 1;
  return !deterministic_ && along.choice.along_links() && serves(along.choice, call, d.wire).ok()
             ? along
             : d;
}

DevicePlanner::Decision DevicePlanner::by_size(const Call& call, std::optional<Wire> wire) const {
  Decision d;
  d.wire = wire;
  d.choice.algorithm = "direct";
  d.why = "nothing is known of what lies between the devices: by size";
  if (call.collective == Collective::all_reduce) {
    const bool small = !deterministic_ && call.bytes() <= k_small;
    d.choice.algorithm = small ? "direct_one_shot" : "direct_two_shot";
  }
  if (deterministic_) d.why = "TUTTI_DETERMINISTIC=1: the same for all sizes";
  return d;
}

Result<std::vector<DeviceCandidate>> DevicePlanner::candidates(const Call& call,
                                                               std::optional<Wire> wire) const {
  return price_on_devices(plans_.placement(), profile_, call.collective, call.bytes(), call.dtype,
                          call.op, wire ? std::optional(protocol_of(*wire)) : std::nullopt);
}

std::optional<DevicePlanner::Decision> DevicePlanner::by_price(const Call& call,
                                                               std::optional<Wire> wire) {
  Result<std::vector<DeviceCandidate>> priced = candidates(call, wire);
  if (!priced) return std::nullopt;
  for (const DeviceCandidate& c : *priced) {
    const std::optional<Wire> its = wire_of(c.protocol);
    if (serves(c.choice, call, its).ok())
      return Decision{c.choice, its,
                      world_.hosts != nullptr ? "the least time over the network between the hosts"
                      : world_.topology != nullptr
                          ? "the least time over the links between the devices"
                          : "the least time at what was measured between two devices"};
  }
  return std::nullopt;
}

double DevicePlanner::launches_seconds(const PlanPtr& plan, const cuda::DeviceCut& cut,
                                       const Call& call) const {
  cuda::RangeBook book(plan, 0, world_.window);
  Result<uint32_t> gates = book.count(cut.layout.rounds());
  if (!gates) return -1;
  PlanRequest request;
  request.collective = call.collective;
  request.ranks = world_.ranks;
  request.root = call.root;
  const Cost cost = find_algorithm(plan->algorithm())->cost(request);
  const double bytes = (cost.bytes + cost.reduced) * static_cast<double>(call.bytes());
  return world_.turns * (*gates * k_turn + bytes * k_shared_byte);
}

std::optional<DevicePlanner::Decision> DevicePlanner::by_launches(const Call& call,
                                                                  std::optional<Wire> wire) {
  std::optional<Decision> best;
  double least = 0;
  for (const Algorithm& algorithm : algorithms()) {
    const Choice choice{std::string(algorithm.name), 0, 0};
    if (choice.hierarchical() || !serves(choice, call, wire).ok()) continue;
    Result<Form> form = this->form(choice, call, world_.ranks);
    Result<PlanPtr> plan = this->plan(choice, call, form->in_place);
    Result<cuda::DeviceCut> cut =
        cuda::fit_cut(*plan, call.count, call.dtype, world_.window, world_.blocks, wire);
    const double seconds = launches_seconds(*plan, *cut, call);
    if (seconds < 0 || (best && seconds >= least)) continue;
    best = Decision{choice, wire, "ranks share a device: the fewest launches that take turns"};
    least = seconds;
  }
  return best;
}

// Calls of a class have one choice, that of its largest: for all roots, ranks in place and not.
std::optional<DevicePlanner::Decision> DevicePlanner::for_class(const Call& call,
                                                                std::optional<Wire> wire) {
  if (deterministic_ || call.collective == Collective::barrier || world_.ranks == 1) return {};
  if (world_.turns == 1 && !has_prices()) return {};
  const ShapeClass shape = ShapeClass::of(call.collective, call.bytes(), call.dtype, call.op);
  Call largest = call;
  largest.count = shape.bytes / size_of(call.dtype);
  largest.in_place = false;
  largest.root = 0;
  const auto [known, fresh] =
      decided_.try_emplace({shape.collective, shape.bytes, call.dtype, shape.op});
  if (fresh)
    known->second = world_.turns > 1 ? by_launches(largest, wire) : by_price(largest, wire);
  return known->second;
}

Result<DevicePlanner::Decision> DevicePlanner::decide(const Call& call) {
  const TuneRule* rule = rule_for(call);
  if (rule != nullptr && rule->chooses()) return by_rule(call, *rule);
  const std::optional<Wire> wire = rule == nullptr ? std::nullopt : wire_of(rule->protocol);
  // What serves the largest of a class may not serve this one.
  if (std::optional<Decision> found = for_class(call, wire);
      found && serves(found->choice, call, found->wire).ok())
    return *found;
  return by_size(call, wire);
}

Result<DevicePlanner::Chosen> DevicePlanner::choose(const Call& call) {
  const Key key{call.collective, call.count, call.dtype, call.op, call.root, call.in_place};
  if (const auto known = chosen_.find(key); known != chosen_.end()) return known->second;
  Result<Decision> decision = decide(call);
  if (!decision) return decision.status();
  Result<Form> form = this->form(decision->choice, call, world_.ranks);
  if (!form) return form.status();
  Result<PlanPtr> plan = this->plan(decision->choice, call, form->in_place);
  if (!plan) return plan.status();
  return chosen_[key] = Chosen{*plan, decision->wire, form->copy_first};
}

// Whether the choice runs in a kernel of its own.
bool DevicePlanner::in_shots(const Decision& decision, const Call& call) {
  const Result<Form> form = this->form(decision.choice, call, world_.ranks);
  if (!form) return false;
  const Result<PlanPtr> plan = this->plan(decision.choice, call, form->in_place);
  if (!plan) return false;
  const Result<cuda::DeviceCut> cut =
      cuda::fit_cut(*plan, call.count, call.dtype, world_.window, world_.blocks, decision.wire);
  return cut && cuda::shot_cut(*plan, *cut, world_.window, world_.blocks);
}

Result<std::string> DevicePlanner::explain(const Call& call) {
  Result<Decision> decision = decide(call);
  if (!decision) return decision.status();
  std::string text = fmt::format(
      "{} of {} B among {} ranks with devices of {}", name(call.collective), call.bytes(),
      world_.ranks,
      world_.hosts == nullptr ? "one host" : fmt::format("{} hosts", world_.hosts->hosts));
  if (world_.turns > 1) text += fmt::format(", {} of them on one device", world_.turns);
  text += fmt::format("; prices: profile \"{}\"\n", profile_.name);
  if (!profile_.device.name.empty())
    text += fmt::format("prices of devices were measured on {}\n", profile_.device.name);
  if (world_.turns > 1)
    text += fmt::format("  {:<44} {:>10.2f} us    assumed\n  {:<44} {:>10.2f} GB/s  assumed\n",
                        "until the next process has the device", k_turn * 1e6,
                        "a byte that one of them moves", 1e-9 / k_shared_byte);
  if (has_prices()) {
    Result<std::vector<DeviceCandidate>> priced = candidates(call, std::nullopt);
    if (!priced) return priced.status();
    text += to_text(DevicePrices(profile_.device));
    text += fmt::format("\n  {:<34} {:<8} {:>12}\n", "algorithm", "messages", "us");
    for (const DeviceCandidate& c : *priced) {
      const std::optional<Wire> its = wire_of(c.protocol);
      const Status served = serves(c.choice, call, its);
      const bool chosen = c.choice == decision->choice && its == decision->wire;
      text += fmt::format("{} {:<34} {:<8} {:>12.2f}{}\n", chosen ? "*" : " ", label(c.choice),
                          name(c.protocol), c.seconds * 1e6,
                          served.ok() ? "" : "  (not here: " + served.message() + ")");
    }
  }
  return text + fmt::format(
                    "\n{}{}{}: {}\n", label(decision->choice),
                    decision->wire ? fmt::format(" by {}", name(protocol_of(*decision->wire))) : "",
                    in_shots(*decision, call) ? ", in a kernel of its own" : "", decision->why);
}

}  // namespace tutti
