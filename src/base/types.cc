#include "tutti/types.h"

#include <array>
#include <utility>

namespace tutti {
namespace {

template <class T, size_t n>
using Names = std::array<std::pair<std::string_view, T>, n>;

// The first spelling of a value is its name; later ones are accepted as well (nccl-tests').
constexpr Names<DType, 22> k_dtype_names{{
    {"int8", DType::int8},
    {"uint8", DType::uint8},
    {"int32", DType::int32},
    {"uint32", DType::uint32},
    {"int64", DType::int64},
    {"uint64", DType::uint64},
    {"float16", DType::float16},
    {"float32", DType::float32},
    {"float64", DType::float64},
    {"bfloat16", DType::bfloat16},
    {"float8_e4m3", DType::float8_e4m3},
    {"float8_e5m2", DType::float8_e5m2},
    {"char", DType::int8},
    {"int", DType::int32},
    {"half", DType::float16},
    {"fp16", DType::float16},
    {"float", DType::float32},
    {"fp32", DType::float32},
    {"double", DType::float64},
    {"bf16", DType::bfloat16},
    {"f8e4m3", DType::float8_e4m3},
    {"f8e5m2", DType::float8_e5m2},
}};
constexpr Names<ReduceOp, 7> k_op_names{{
    {"sum", ReduceOp::sum},
    {"prod", ReduceOp::prod},
    {"max", ReduceOp::max},
    {"min", ReduceOp::min},
    {"avg", ReduceOp::avg},
    {"premul_sum", ReduceOp::premul_sum},
    {"mulsum", ReduceOp::premul_sum},
}};
constexpr Names<Collective, 15> k_collective_names{{
    {"all_reduce", Collective::all_reduce},
    {"reduce_scatter", Collective::reduce_scatter},
    {"all_gather", Collective::all_gather},
    {"broadcast", Collective::broadcast},
    {"reduce", Collective::reduce},
    {"all_to_all", Collective::all_to_all},
    {"all_to_all_v", Collective::all_to_all_v},
    {"gather", Collective::gather},
    {"scatter", Collective::scatter},
    {"send_recv", Collective::send_recv},
    {"barrier", Collective::barrier},
    {"alltoall", Collective::all_to_all},
    {"alltoallv", Collective::all_to_all_v},
    {"sendrecv", Collective::send_recv},
    {"bcast", Collective::broadcast},
}};

template <class T, size_t n>
std::string_view name_in(const Names<T, n>& names, T value) {
  for (const auto& [text, v] : names)
    if (v == value) return text;
  return "?";
}

template <class T, size_t n>
std::optional<T> parse_in(const Names<T, n>& names, std::string_view text) {
  for (const auto& [t, value] : names)
    if (t == text) return value;
  return std::nullopt;
}

}  // namespace

std::string_view name(DType dtype) { return name_in(k_dtype_names, dtype); }
std::string_view name(ReduceOp op) { return name_in(k_op_names, op); }
std::string_view name(Collective collective) { return name_in(k_collective_names, collective); }
std::optional<DType> parse_dtype(std::string_view text) { return parse_in(k_dtype_names, text); }
std::optional<ReduceOp> parse_reduce_op(std::string_view text) {
  return parse_in(k_op_names, text);
}
std::optional<Collective> parse_collective(std::string_view text) {
  return parse_in(k_collective_names, text);
}

}  // namespace tutti
