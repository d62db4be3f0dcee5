#include "src/cuda/driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace tutti::cuda {

Status Driver::check(int result, const char* function) const {
  if (result == k_success) return {};
  const char* name = nullptr;
  const char* text = nullptr;
  if (error_name == nullptr || error_name(result, &name) != k_success || name == nullptr)
    name = "an unknown error";
  if (error_string == nullptr || error_string(result, &text) != k_success || text == nullptr)
    text = "no description";
  return Status(Code::device_error, fmt::format("{}: {} ({}, {})", function, name, result, text));
}

Result<std::shared_ptr<const Driver>> load_driver(const char* library) {
  void* handle = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);  // never closed: its threads live on
  if (handle == nullptr)
    return Status(Code::device_error, fmt::format("no CUDA driver: {}", ::dlerror()));
  auto driver = std::make_shared<Driver>();
#define TUTTI_CUDA_LOAD(member, symbol, arguments)                                       \
  driver->member = reinterpret_cast<decltype(driver->member)>(::dlsym(handle, #symbol)); \
  if (driver->member == nullptr)                                                         \
    return Status(Code::device_error,                                                    \
                  fmt::format("the CUDA driver {} is too old: it has no {}", library, #symbol));
  TUTTI_CUDA_FUNCTIONS(TUTTI_CUDA_LOAD)
#undef TUTTI_CUDA_LOAD
  return std::shared_ptr<const Driver>(std::move(driver));
}

}  // namespace tutti::cuda
