// NCCL_ALGO in tutti's words.
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

}  // namespace

std::string tune_from_nccl_algo(const std::string& algorithms) {
  std::string text;
  for (unsigned char c : algorithms)
    if (!std::isspace(c)) text += static_cast<char>(std::tolower(c));
  std::array<std::string_view, k_functions.size()> chosen{};
  for (const std::string& part : split(text, ';')) {
    const size_t colon = part.find(':');
    const std::string list = colon == std::string::npos ? part : part.substr(colon + 1);
    for (size_t f = 0; f < k_functions.size(); ++f)
      if (colon == std::string::npos || part.substr(0, colon) == k_functions[f].nccl)
        chosen[f] = choice(list, k_functions[f]);
  }
  std::string tune;
  for (size_t f = 0; f < k_functions.size(); ++f)
    if (!chosen[f].empty())
      tune += (tune.empty() ? "" : ";") + std::string(k_functions[f].ours) +
              ":0-inf:" + std::string(chosen[f]);
  return tune;
}

}  // namespace tutti
