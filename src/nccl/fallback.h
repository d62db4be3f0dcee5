// Operations that TUTTI_NCCL_FALLBACK gives to a real NCCL, and the communicator there.
//
// The list is a rank's; all ranks of a communicator must have the same one. The real communicator
// has the same ranks; its id travels over tutti. It is made at the first operation that needs it,
// which all ranks call; where the list has send and recv, which not all ranks call, together with
// tutti's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "src/nccl/operation.h"
#include "src/nccl/real_library.h"
#include "tutti/communicator.h"

namespace tutti::nccl {

// A set of Operation::Kind.
class Kinds {
 public:
  bool has(Operation::Kind kind) const { return (bits_ >> static_cast<int>(kind) & 1) != 0; }
  void add(Operation::Kind kind) { bits_ |= 1u << static_cast<int>(kind); }
  bool reduces() const {
    return has(Operation::Kind::all_reduce) || has(Operation::Kind::reduce) ||
           has(Operation::Kind::reduce_scatter);
  }
  bool empty() const { return bits_ == 0; }
  uint32_t bits() const { return bits_; }

 private:
  uint32_t bits_ = 0;
};

// "all_to_all,send,recv" or "*" of TUTTI_NCCL_FALLBACK. Error: invalid_usage naming the word.
Result<Kinds> read_fallback();

class RealComm {
 public:
  // A library that has what `kinds` need. Errors: as RealLibrary::load().
  static Result<std::shared_ptr<const RealLibrary>> library(const Kinds& kinds);
  // Collective over all ranks of `communicator`. Errors: those of the library; invalid_usage naming
  // ranks whose lists or libraries differ.
  static Result<std::shared_ptr<RealComm>> make(Communicator& communicator, const Kinds& kinds,
                                                int device);
  ~RealComm();

  // As one group, in order of the span; only operations of these kinds.
  Status run(std::span<const Operation> operations, const Kinds& kinds);
  // What it found in the background.
  Status state() const;
  // From any thread; stops what runs.
  void abort();

 private:
  RealComm(std::shared_ptr<const RealLibrary> library, int device)
      : library_(std::move(library)), device_(device) {}
  Status run(const Operation& operation, ncclComm_t comm);
  ncclResult_t call(const Operation& operation, ncclDataType_t type, ncclRedOp_t reduction,
                    ncclComm_t comm) const;
  void end(ncclResult_t (*how)(ncclComm_t));

  const std::shared_ptr<const RealLibrary> library_;
  const int device_;
  std::atomic<ncclComm_t> comm_{nullptr};  // null after abort
};

}  // namespace tutti::nccl
