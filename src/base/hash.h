// A hash of several words, one after the other. Ranks compare such hashes: the same in every build.
#pragma once

#include <cstdint>

namespace tutti {

inline uint64_t mix(uint64_t h, uint64_t word) {
  h ^= word * 0x9e3779b97f4a7c15ULL;
  h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93ULL;
  return h ^ (h >> 29);
}

}  // namespace tutti
