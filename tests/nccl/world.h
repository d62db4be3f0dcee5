// Worlds of ncclComm_t for the tests, and data whose collectives are exactly predictable.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "src/nccl/public.h"

#define EXPECT_NCCL(call) EXPECT_PRED_FORMAT1(::tutti::nccl_test::succeeds, call)
#define ASSERT_NCCL(call) ASSERT_PRED_FORMAT1(::tutti::nccl_test::succeeds, call)

namespace tutti::nccl_test {

inline testing::AssertionResult succeeds(const char* call, ncclResult_t result) {
  if (result == ncclSuccess) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << call << " is " << ncclGetErrorString(result) << ": " << ncclGetLastError(nullptr);
}

// All ranks of one communicator in this process; destroyed at the end.
class World {
 public:
  explicit World(int ranks) : comms_(ranks) {
    EXPECT_NCCL(ncclCommInitAll(comms_.data(), ranks, nullptr));
  }
  ~World() {
    for (ncclComm_t comm : comms_)
      if (comm != nullptr) {
        EXPECT_NCCL(ncclCommDestroy(comm));
      }
  }
  int size() const { return static_cast<int>(comms_.size()); }
  ncclComm_t& operator[](int rank) { return comms_[rank]; }

  // `body(rank, comm)` in a thread per rank.
  void on_every_rank(const std::function<void(int, ncclComm_t)>& body) {
    std::vector<std::thread> threads;
    for (int r = 0; r < size(); ++r) threads.emplace_back([&, r] { body(r, comms_[r]); });
    for (std::thread& t : threads) t.join();
  }

 private:
  std::vector<ncclComm_t> comms_;
};

inline size_t size_of(int datatype) {
  constexpr size_t k_sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return k_sizes[datatype];
}

// Bits of the small whole number `value` >= 0 in a float format: exact, or the test is wrong.
inline uint64_t float_bits(uint64_t value, int mantissa_bits, int bias) {
  if (value == 0) return 0;
  int exponent = 63 - __builtin_clzll(value);
  const uint64_t fraction = value - (uint64_t{1} << exponent);
  const uint64_t mantissa = mantissa_bits >= exponent ? fraction << (mantissa_bits - exponent)
                                                      : fraction >> (exponent - mantissa_bits);
  EXPECT_TRUE(mantissa_bits >= exponent || mantissa << (exponent - mantissa_bits) == fraction)
      << value << " has no exact form";
  return static_cast<uint64_t>(exponent + bias) << mantissa_bits | mantissa;
}

inline uint64_t bits_of(int datatype, uint64_t value) {
  switch (datatype) {
    case ncclFloat16:
      return float_bits(value, 10, 15);
    case ncclFloat32:
      return float_bits(value, 23, 127);
    case ncclFloat64:
      return float_bits(value, 52, 1023);
    case ncclBfloat16:
      return float_bits(value, 7, 127);
    case ncclFloat8e4m3:
      return float_bits(value, 3, 7);
    case ncclFloat8e5m2:
      return float_bits(value, 2, 15);
    default:
      return value;
  }
}

// An array of small whole numbers in any type.
class Data {
 public:
  Data(int datatype, size_t count) : datatype_(datatype), bytes_(count * size_of(datatype) + 64) {}
  void* at(size_t element = 0) { return bytes_.data() + element * size_of(datatype_); }
  void set(size_t element, uint64_t value) {
    const uint64_t bits = bits_of(datatype_, value);
    std::memcpy(at(element), &bits, size_of(datatype_));
  }
  // "" or where the array is not `expected(element)`.
  std::string differs(size_t first, size_t count, const std::function<uint64_t(size_t)>& expected) {
    for (size_t i = 0; i < count; ++i) {
      uint64_t bits = 0;
      std::memcpy(&bits, at(first + i), size_of(datatype_));
      if (bits != bits_of(datatype_, expected(i)))
        return "element " + std::to_string(first + i) + " is " + std::to_string(bits) + ", not " +
               std::to_string(bits_of(datatype_, expected(i)));
    }
    return {};
  }

 private:
  int datatype_;
  std::vector<unsigned char> bytes_;
};

}  // namespace tutti::nccl_test
