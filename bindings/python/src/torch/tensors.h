// Tensors as the library sees them: element types, contiguous memory, reductions that torch has and
// the library does not.
#pragma once

#include <ATen/ATen.h>

#include <span>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <vector>

#include "bindings/python/src/torch/calls.h"

namespace tutti::torch_backend {

// What `items` of a tensor are on the wire.
struct Wire {
  DType dtype;
  size_t per_item;
  size_t count(int64_t items) const { return static_cast<size_t>(items) * per_item; }
};
// Any type, for operations that only move data: what the library does not know goes as bytes.
Wire wire_of(const at::Tensor& tensor);

// Throws with the names of operation and argument: neither on the CPU nor on a device of type
// `served`, on several devices, sparse, of different types.
void check_tensors(const char* operation, const std::vector<at::Tensor>& tensors,
                   c10::DeviceType served);
// Throws when the library cannot reduce this type with this operator.
void check_reduction(const char* operation, const at::Tensor& tensor, const c10d::ReduceOp& op);

// The tensor itself if its memory is contiguous, or a copy.
at::Tensor contiguous(const at::Tensor& tensor);
// Tensors one after the other in one piece of memory; the first itself if it is alone.
at::Tensor flatten(const std::vector<at::Tensor>& tensors);
// The inverse, for outputs: `flat` split over `tensors`.
void unflatten(const at::Tensor& flat, std::vector<at::Tensor>& tensors);

struct Message {
  at::Tensor tensor;
  bool sends;
  Rank peer;
};
// All of them together, as bytes.
Status transfer(Calls& c, std::span<const Message> messages);

// Reductions of contiguous memory with torch's operators. in == out is allowed where shapes agree.
// Bitwise operators gather and reduce here; a factor is applied first.
Status all_reduce(Calls& c, at::Tensor tensor, const c10d::ReduceOp& op);
Status reduce(Calls& c, at::Tensor tensor, const c10d::ReduceOp& op, Rank root);
// `in` holds ranks() blocks of the size of `out`.
Status reduce_scatter(Calls& c, const at::Tensor& in, at::Tensor out, const c10d::ReduceOp& op);

}  // namespace tutti::torch_backend
