// NCCL_ALGO and NCCL_PROTO in tutti's words.
#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <vector>

#include "src/communicator/environment.h"

namespace tutti {
namespace {

struct Function {
  std::string_view nccl, ours;
  bool ring, tree;
};
constexpr std::array<Function, 5> k_functions = {
    {{"allreduce", "all_reduce", true, true},
     {"broadcast", "broadcast", true, true},
     {"reduce", "reduce", true, true},
     {"allgather", "all_gather", true, false},
     {"reducescatter", "reduce_scatter", true, false}}};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

// The first algorithm of the list that tutti has for the function, or "".
std::string_view choice(const std::string& list, const Function& function) {
  for (const std::string& name : split(list, ',')) {
    if (name == "ring" && function.ring) return "ring";
    if (name == "tree" && function.tree) return "double_binary_tree";
  }
  return {};
}

// The wire protocol of devices that the list leaves, or "": LL and LL128 are packets.
std::string_view wire(std::string list) {
  const bool excluded = list.starts_with("^");
  if (excluded) list.erase(0, 1);
  const std::vector<std::string> names = split(list, ',');
  const auto left = [&](std::string_view name) {
    return (std::find(names.begin(), names.end(), name) != names.end()) != excluded;
  };
  const bool packets = left("ll") || left("ll128"), slots = left("simple");
  return packets == slots ? "" : packets ? "packets" : "slots";
}

using PerFunction = std::array<std::string_view, k_functions.size()>;

// "ring", "allreduce:tree;broadcast:ring": what `choose` makes of each function's list.
template <class Choose>
PerFunction by_function(const std::string& setting, Choose&& choose) {
  std::string text;
  for (unsigned char c : setting)
    if (!std::isspace(c)) text += static_cast<char>(std::tolower(c));
  PerFunction chosen{};
  if (text.empty()) return chosen;
  for (const std::string& part : split(text, ';')) {
    const size_t colon = part.find(':');
    const std::string list = colon == std::string::npos ? part : part.substr(colon + 1);
    for (size_t f = 0; f < k_functions.size(); ++f)
      if (colon == std::string::npos || part.substr(0, colon) == k_functions[f].nccl)
        chosen[f] = choose(list, k_functions[f]);
  }
  return chosen;
}

}  // namespace

std::string tune_from_nccl(const std::string& algorithms, const std::string& protocols) {
  const auto algorithm = by_function(
      algorithms, [](const std::string& list, const Function& f) { return choice(list, f); });
  const auto protocol =
      by_function(protocols, [](const std::string& list, const Function&) { return wire(list); });
  std::string tune;
  for (size_t f = 0; f < k_functions.size(); ++f) {
    if (algorithm[f].empty() && protocol[f].empty()) continue;
    tune += tune.empty() ? "" : ";";
    tune += std::string(k_functions[f].ours) + ":0-inf:";
    tune += algorithm[f].empty() ? "auto" : algorithm[f];
    if (!protocol[f].empty()) tune += "/" + std::string(protocol[f]);
  }
  return tune;
}

}  // namespace tutti
