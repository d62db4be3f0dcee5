// What every file that defines C functions begins and ends with.
//
// A file defines the strong pncclX of its chapter and closes with
// TUTTI_NCCL_<CHAPTER>_NAMES(TUTTI_NCCL_WEAK_ALIAS), which makes the weak ncclX. Inside the library
// only pncclX is called: a tool's ncclX would see calls that no user made.
#pragma once

#include <exception>
#include <new>

#include "src/nccl/errors.h"
#include "src/nccl/names.h"
#include "src/nccl/public.h"

#define TUTTI_NCCL_WEAK_ALIAS(name, since)                                \
  extern "C" {                                                            \
  extern decltype(pnccl##name) nccl##name                                 \
      __attribute__((weak, alias("pnccl" #name), visibility("default"))); \
  }

namespace tutti::nccl {

// Runs the body of C function `function` and turns what it says into a result and a last error.
// Nothing is thrown into a C program.
template <class Body>
ncclResult_t answer(const char* function, Body&& body) noexcept {
  try {
    const Status status = body();
    if (status.ok()) return succeeded();
    return failed(function, status);
  } catch (const std::bad_alloc&) {
    return failed(function, Status(Code::system_error, "out of memory"));
  } catch (const std::exception& e) {
    return failed(function, Status(Code::internal_error, e.what()));
  }
}

}  // namespace tutti::nccl
