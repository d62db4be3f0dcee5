// A libnccl.so.2 that is not tutti: found, loaded beside this one, and asked for its functions.
#pragma once

#include <memory>
#include <string>

#include "src/nccl/public.h"
#include "tutti/status.h"

namespace tutti::nccl {

// What is called there: X(name without prefix, whether nothing goes without it).
#define TUTTI_NCCL_REAL_FUNCTIONS(X) \
  X(GetVersion, true)                \
  X(GetUniqueId, true)               \
  X(GetErrorString, true)            \
  X(GetLastError, false)             \
  X(CommInitRank, true)              \
  X(CommDestroy, true)               \
  X(CommAbort, true)                 \
  X(CommGetAsyncError, true)         \
  X(GroupStart, true)                \
  X(GroupEnd, true)                  \
  X(RedOpCreatePreMulSum, false)     \
  X(RedOpDestroy, false)             \
  X(AllReduce, false)                \
  X(ReduceScatter, false)            \
  X(AllGather, false)                \
  X(Broadcast, false)                \
  X(Reduce, false)                   \
  X(AlltoAll, false) X(Gather, false) X(Scatter, false) X(Send, false) X(Recv, false)

class RealLibrary {
 public:
  // Null: the library lacks it.
  struct Functions {
#define TUTTI_NCCL_REAL_FUNCTION(name, needed) decltype(&::nccl##name) nccl##name = nullptr;
    TUTTI_NCCL_REAL_FUNCTIONS(TUTTI_NCCL_REAL_FUNCTION)
#undef TUTTI_NCCL_REAL_FUNCTION
  };

  // The library at TUTTI_NCCL_REAL, else the first one on the usual paths that is not tutti. It
  // stays loaded. Errors: invalid_usage naming the path and what is wrong with it or what it lacks,
  // or the paths searched.
  static Result<std::shared_ptr<const RealLibrary>> load();

  const Functions& functions() const { return functions_; }
  const std::string& path() const { return path_; }
  int version() const { return version_; }
  // The error for a function that is null.
  Status lacks(const std::string& name) const;
  // What one of its functions returned, as a Status that names the library and the function.
  Status status_of(const std::string& function, ncclResult_t result) const;

 private:
  explicit RealLibrary(std::string path) : path_(std::move(path)) {}
  static Result<std::shared_ptr<const RealLibrary>> open(const std::string& path);
  Status read_functions(void* handle);

  std::string path_;
  Functions functions_;
  int version_ = 0;
};

}  // namespace tutti::nccl
