#include "bindings/python/src/torch/tensors.h"

namespace tutti::torch_backend {
namespace {

using RedOp = c10d::ReduceOp::RedOpType;

std::optional<DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kChar:
      return DType::int8;
    case at::kByte:
    case at::kBool:
      return DType::uint8;
    case at::kInt:
      return DType::int32;
    case at::kLong:
      return DType::int64;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    case at::kFloat:
      return DType::float32;
    case at::kDouble:
      return DType::float64;
    case at::ScalarType::UInt32:
      return DType::uint32;
    case at::ScalarType::UInt64:
      return DType::uint64;
    case at::ScalarType::Float8_e4m3fn:
      return DType::float8_e4m3;
    case at::ScalarType::Float8_e5m2:
      return DType::float8_e5m2;
    default:
      return std::nullopt;
  }
}

const char* op_name(RedOp op) {
  constexpr const char* k_names[] = {"SUM",  "AVG", "PRODUCT", "MIN",        "MAX",
                                     "BAND", "BOR", "BXOR",    "PREMUL_SUM", "UNUSED"};
  return k_names[std::min<size_t>(op, 9)];
}

bool bitwise(RedOp op) {
  return op == c10d::ReduceOp::BAND || op == c10d::ReduceOp::BOR || op == c10d::ReduceOp::BXOR;
}

// Bools are bytes of 0 and 1: their sum is "any", their product "all", as with NCCL.
ReduceOp native(RedOp op, at::ScalarType type) {
  const bool boolean = type == at::kBool;
  switch (op) {
    case c10d::ReduceOp::AVG:
      return ReduceOp::avg;
    case c10d::ReduceOp::PRODUCT:
      return boolean ? ReduceOp::min : ReduceOp::prod;
    case c10d::ReduceOp::MIN:
      return ReduceOp::min;
    case c10d::ReduceOp::MAX:
      return ReduceOp::max;
    default:
      return boolean ? ReduceOp::max : ReduceOp::sum;
  }
}

at::Tensor times_factor(const at::Tensor& tensor, const c10d::ReduceOp& op) {
  const auto* factor = static_cast<const c10d::PreMulSumSupplement*>(op.supplement_.get());
  if (factor->tensor_factor.defined()) return tensor.mul(factor->tensor_factor).to(tensor.dtype());
  return tensor.mul(factor->double_factor);
}

// Every rank's tensor folded with a bitwise operator.
Status fold(Calls& c, const at::Tensor& tensor, RedOp op, at::Tensor* folded) {
  const Wire wire = wire_of(tensor);
  at::Tensor all = at::empty({static_cast<int64_t>(c.ranks()), tensor.numel()}, tensor.options());
  TUTTI_RETURN_IF_ERROR(c.all_gather(tensor.const_data_ptr(), all.mutable_data_ptr(),
                                     wire.count(tensor.numel()), wire.dtype));
  *folded = all[0].clone();
  for (int64_t r = 1; r < all.size(0); ++r) {
    if (op == c10d::ReduceOp::BAND) folded->bitwise_and_(all[r]);
    if (op == c10d::ReduceOp::BOR) folded->bitwise_or_(all[r]);
    if (op == c10d::ReduceOp::BXOR) folded->bitwise_xor_(all[r]);
  }
  return {};
}

}  // namespace

Wire wire_of(const at::Tensor& tensor) {
  if (std::optional<DType> dtype = dtype_of(tensor.scalar_type())) return {*dtype, 1};
  return {DType::uint8, static_cast<size_t>(tensor.element_size())};
}

void check_tensors(const char* operation, const std::vector<at::Tensor>& tensors,
                   c10::DeviceType served) {
  TORCH_CHECK_VALUE(!tensors.empty(), "tutti: ", operation, ": no tensors");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor& t = tensors[i];
    TORCH_CHECK_VALUE(t.defined(), "tutti: ", operation, ": tensor ", i, " is undefined");
    TORCH_CHECK_NOT_IMPLEMENTED(t.device().is_cpu() || t.device().type() == served,
                                "tutti: ", operation, ": tensor ", i, " is on ", t.device(),
                                "; tensors on cpu and ", served, " are served");
    TORCH_CHECK_VALUE(t.device() == tensors[0].device(), "tutti: ", operation, ": tensor ", i,
                      " is on ", t.device(), ", but tensor 0 is on ", tensors[0].device(),
                      ": one call takes tensors of one device");
    TORCH_CHECK_NOT_IMPLEMENTED(t.layout() == at::kStrided, "tutti: ", operation, ": tensor ", i,
                                " has layout ", t.layout(), "; only dense tensors can be sent");
    TORCH_CHECK_TYPE(t.scalar_type() == tensors[0].scalar_type(), "tutti: ", operation, ": tensor ",
                     i, " is ", t.scalar_type(), ", but tensor 0 is ", tensors[0].scalar_type());
  }
}

void check_reduction(const char* operation, const at::Tensor& tensor, const c10d::ReduceOp& op) {
  const at::ScalarType type = tensor.scalar_type();
  TORCH_CHECK_TYPE(dtype_of(type), "tutti: ", operation, ": cannot reduce ", type);
  TORCH_CHECK_VALUE(op.op_ <= c10d::ReduceOp::PREMUL_SUM, "tutti: ", operation,
                    ": unknown reduce op ", static_cast<int>(op.op_));
  TORCH_CHECK_TYPE(!bitwise(op) || at::isIntegralType(type, /*includeBool=*/true),
                   "tutti: ", operation, ": Cannot use ReduceOp.", op_name(op), " with ", type);
  TORCH_CHECK_TYPE(
      type != at::kBool || (op.op_ != c10d::ReduceOp::AVG && op.op_ != c10d::ReduceOp::PREMUL_SUM),
      "tutti: ", operation, ": Cannot use ReduceOp.", op_name(op), " with ", type);
  TORCH_CHECK_VALUE(op.op_ != c10d::ReduceOp::PREMUL_SUM || op.supplement_, "tutti: ", operation,
                    ": PREMUL_SUM without its factor");
}

at::Tensor contiguous(const at::Tensor& tensor) {
  // Conjugated and negated views are lazy: their memory is not their value.
  return tensor.resolve_conj().resolve_neg().contiguous();
}

at::Tensor flatten(const std::vector<at::Tensor>& tensors) {
  if (tensors.size() == 1) return contiguous(tensors[0]).view({-1});
  std::vector<at::Tensor> flat;
  flat.reserve(tensors.size());
  for (const at::Tensor& t : tensors) flat.push_back(contiguous(t).view({-1}));
  return at::cat(flat);
}

void unflatten(const at::Tensor& flat, std::vector<at::Tensor>& tensors) {
  int64_t offset = 0;
  for (at::Tensor& t : tensors) {
    t.copy_(flat.narrow(0, offset, t.numel()).view(t.sizes()));
    offset += t.numel();
  }
}

Status transfer(Calls& c, std::span<const Message> messages) {
  std::vector<at::Tensor> dense;
  for (const auto& [tensor, sends, peer] : messages) {
    const bool as_it_is = tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg();
    dense.push_back(sends      ? contiguous(tensor)
                    : as_it_is ? tensor
                               : at::empty(tensor.sizes(), tensor.options()));
  }
  TUTTI_RETURN_IF_ERROR(c.group_start());
  Status status;
  for (size_t i = 0; i < dense.size() && status.ok(); ++i) {
    const Rank peer = messages[i].peer;
    status = messages[i].sends
                 ? c.send(dense[i].const_data_ptr(), dense[i].nbytes(), DType::uint8, peer)
                 : c.recv(dense[i].mutable_data_ptr(), dense[i].nbytes(), DType::uint8, peer);
  }
  const Status ended = c.group_end();
  TUTTI_RETURN_IF_ERROR(status);
  TUTTI_RETURN_IF_ERROR(ended);
  for (size_t i = 0; i < dense.size(); ++i)
    if (!messages[i].sends && !dense[i].is_same(messages[i].tensor))
      messages[i].tensor.copy_(dense[i]);
  return {};
}

Status all_reduce(Calls& c, at::Tensor tensor, const c10d::ReduceOp& op) {
  if (bitwise(op)) {
    at::Tensor folded;
    TUTTI_RETURN_IF_ERROR(fold(c, tensor, op, &folded));
    tensor.copy_(folded.view(tensor.sizes()));
    return {};
  }
  if (op.op_ == c10d::ReduceOp::PREMUL_SUM) tensor.copy_(times_factor(tensor, op));
  const Wire wire = wire_of(tensor);
  void* data = tensor.mutable_data_ptr();
  return c.all_reduce(data, data, wire.count(tensor.numel()), wire.dtype,
                      native(op, tensor.scalar_type()));
}

Status reduce(Calls& c, at::Tensor tensor, const c10d::ReduceOp& op, Rank root) {
  if (bitwise(op)) {
    at::Tensor folded;
    TUTTI_RETURN_IF_ERROR(fold(c, tensor, op, &folded));
    if (c.rank() == root) tensor.copy_(folded.view(tensor.sizes()));
    return {};
  }
  const at::Tensor in = op.op_ == c10d::ReduceOp::PREMUL_SUM ? times_factor(tensor, op) : tensor;
  const Wire wire = wire_of(tensor);
  return c.reduce(in.const_data_ptr(), c.rank() == root ? tensor.mutable_data_ptr() : nullptr,
                  wire.count(tensor.numel()), wire.dtype, native(op, tensor.scalar_type()), root);
}

Status reduce_scatter(Calls& c, const at::Tensor& in, at::Tensor out, const c10d::ReduceOp& op) {
  if (bitwise(op)) {
    at::Tensor folded;
    TUTTI_RETURN_IF_ERROR(fold(c, in, op, &folded));
    out.copy_(folded.narrow(0, c.rank() * out.numel(), out.numel()).view(out.sizes()));
    return {};
  }
  const at::Tensor scaled = op.op_ == c10d::ReduceOp::PREMUL_SUM ? times_factor(in, op) : in;
  const Wire wire = wire_of(in);
  return c.reduce_scatter(scaled.const_data_ptr(), out.mutable_data_ptr(), wire.count(out.numel()),
                          wire.dtype, native(op, in.scalar_type()));
}

}  // namespace tutti::torch_backend
