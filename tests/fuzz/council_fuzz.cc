// link: tutti_bootstrap
// Letters of other ranks: whatever they say, a council must not crash, must not answer without end,
// and two that hear the same decide the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "src/communicator/bootstrap/council.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  if (size == 0 || size > 4096) return 0;
  constexpr uint32_t k_ranks = 4;
  Council council(1, k_ranks), twin(1, k_ranks);
  std::string heard;
  // Frames: {from or event, length, bytes}; letters that the library itself wrote are echoed now
  // and then, so that well-formed ones are met as well.
  std::vector<std::string> written;
  for (size_t at = 0; at + 2 <= size;) {
    const uint8_t event = data[at], length = data[at + 1];
    at += 2;
    const std::string text(reinterpret_cast<const char*>(data + at),
                           std::min<size_t>(length, size - at));
    at += text.size();
    const Rank from = event % k_ranks;
    for (Council* c : {&council, &twin}) {
      switch (event / 16 % 8) {
        case 0:
          c->lost(from);
          break;
        case 1:
          c->agree(length);
          break;
        case 2:
          c->revoke(text);
          break;
        case 3:
          if (!written.empty()) {
            std::string echo = written[length % written.size()];
            for (size_t i = 0; i < text.size() && i < echo.size(); ++i) echo[i] ^= text[i];
            c->receive(from, echo);
          }
          break;
        default:
          c->receive(from, text);
      }
    }
    auto letters = council.take_letters();
    if (letters.size() > 64 || twin.take_letters().size() != letters.size()) std::abort();
    for (auto& letter : letters) {
      if (letter.to >= k_ranks) std::abort();
      written.push_back(std::move(letter.text));
    }
    if (written.size() > 64) written.erase(written.begin(), written.end() - 64);
    auto one = council.take_verdict(), two = twin.take_verdict();
    if (one.has_value() != two.has_value() || (one && !(*one == *two))) std::abort();
  }
  return 0;
}
