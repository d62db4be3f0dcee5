// The words of a collective call: rank, element type, reduction operator, collective.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace [[gnu::visibility("default")]] tutti {  // all else in libtutti.so is hidden

using Rank = uint32_t;

// Element types, in the numbering of ncclDataType_t.
enum class DType : uint8_t {
  int8 = 0,
  uint8 = 1,
  int32 = 2,
  uint32 = 3,
  int64 = 4,
  uint64 = 5,
  float16 = 6,
  float32 = 7,
  float64 = 8,
  bfloat16 = 9,
  float8_e4m3 = 10,
  float8_e5m2 = 11,
};
inline constexpr int k_dtypes = 12;

// Reduction operators. sum..avg have the numbering of ncclRedOp_t. premul_sum multiplies every
// rank's input by that rank's own scalar (rounded to the element type) before it is summed.
enum class ReduceOp : uint8_t { sum = 0, prod = 1, max = 2, min = 3, avg = 4, premul_sum = 5 };
inline constexpr int k_reduce_ops = 6;

enum class Collective : uint8_t {
  all_reduce,
  reduce_scatter,
  all_gather,
  broadcast,
  reduce,
  all_to_all,
  all_to_all_v,
  gather,
  scatter,
  send_recv,
  barrier,
};
inline constexpr int k_collectives = 11;

// Bytes of one element.
constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::int8:
    case DType::uint8:
    case DType::float8_e4m3:
    case DType::float8_e5m2:
      return 1;
    case DType::float16:
    case DType::bfloat16:
      return 2;
    case DType::int32:
    case DType::uint32:
    case DType::float32:
      return 4;
    case DType::int64:
    case DType::uint64:
    case DType::float64:
      return 8;
  }
  return 0;
}
constexpr bool valid(DType dtype) { return static_cast<int>(dtype) < k_dtypes; }
constexpr bool valid(ReduceOp op) { return static_cast<int>(op) < k_reduce_ops; }

// snake_case spelling as used by the command line, plan text and Python.
std::string_view name(DType dtype);
std::string_view name(ReduceOp op);
std::string_view name(Collective collective);
// Inverse of name(); also takes the spellings of nccl-tests (float, half, mulsum, alltoall, ...).
std::optional<DType> parse_dtype(std::string_view text);
std::optional<ReduceOp> parse_reduce_op(std::string_view text);
std::optional<Collective> parse_collective(std::string_view text);

}  // namespace tutti
