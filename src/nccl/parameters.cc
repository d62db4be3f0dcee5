// ncclParam*: the NCCL_* variables as this process sees them now.
#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <vector>

#include "src/communicator/environment.h"
#include "src/nccl/api.h"
#include "src/nccl/log.h"
#include "src/nccl/variables.h"

namespace tutti::nccl {
namespace {

// A handle is the address of the variable's entry in the table; others are recognised.
const Variable* entry_of(ncclParamHandle_t handle) {
  for (const Variable& v : variables())
    if (reinterpret_cast<const void*>(&v) == handle) return &v;
  return nullptr;
}

Result<const Variable*> entry_named(const char* key) {
  if (key == nullptr) return invalid_argument("the key is null");
  const Variable* found = find_variable(key);
  if (found == nullptr)
    return invalid_argument(fmt::format("\"{}\" is no parameter", std::string(key).substr(0, 100)));
  return found;
}

Result<std::string> value_of(ncclParamHandle_t handle) {
  const Variable* entry = entry_of(handle);
  if (entry == nullptr) return invalid_argument("the handle is not from ncclParamBind");
  const Variables set = read_environment();
  const auto found = set.find(entry->name);
  return found == set.end() ? std::string() : found->second;
}

template <class T>
ncclResult_t get_number(const char* function, ncclParamHandle_t handle, T* out) {
  return answer(function, [&]() -> Status {
    if (out == nullptr) return invalid_argument("the pointer to the answer is null");
    Result<std::string> text = value_of(handle);
    if (!text) return text.status();
    T value{};
    const char* end = text->data() + text->size();
    const auto [rest, error] = std::from_chars(text->data(), end, value);
    if (text->empty() || error != std::errc() || rest != end)
      return invalid_argument(fmt::format("{} is {}, not a number of this type",
                                          entry_of(handle)->name,
                                          text->empty() ? "unset" : "\"" + *text + "\""));
    *out = value;
    return {};
  });
}

}  // namespace
}  // namespace tutti::nccl

using namespace tutti;        // NOLINT: the rest is C functions
using namespace tutti::nccl;  // NOLINT

ncclResult_t pncclParamBind(ncclParamHandle_t* out, const char* key) {
  return answer("ncclParamBind", [&]() -> Status {
    if (out == nullptr) return invalid_argument("the pointer to the handle is null");
    *out = nullptr;
    Result<const Variable*> entry = entry_named(key);
    if (!entry) return entry.status();
    *out = reinterpret_cast<ncclParamHandle_t>(const_cast<Variable*>(*entry));
    return {};
  });
}

ncclResult_t pncclParamGetI8(ncclParamHandle_t h, int8_t* out) {
  return get_number("ncclParamGetI8", h, out);
}
ncclResult_t pncclParamGetI16(ncclParamHandle_t h, int16_t* out) {
  return get_number("ncclParamGetI16", h, out);
}
ncclResult_t pncclParamGetI32(ncclParamHandle_t h, int32_t* out) {
  return get_number("ncclParamGetI32", h, out);
}
ncclResult_t pncclParamGetI64(ncclParamHandle_t h, int64_t* out) {
  return get_number("ncclParamGetI64", h, out);
}
ncclResult_t pncclParamGetU8(ncclParamHandle_t h, uint8_t* out) {
  return get_number("ncclParamGetU8", h, out);
}
ncclResult_t pncclParamGetU16(ncclParamHandle_t h, uint16_t* out) {
  return get_number("ncclParamGetU16", h, out);
}
ncclResult_t pncclParamGetU32(ncclParamHandle_t h, uint32_t* out) {
  return get_number("ncclParamGetU32", h, out);
}
ncclResult_t pncclParamGetU64(ncclParamHandle_t h, uint64_t* out) {
  return get_number("ncclParamGetU64", h, out);
}

ncclResult_t pncclParamGetStr(ncclParamHandle_t h, const char** out) {
  return answer("ncclParamGetStr", [&]() -> Status {
    thread_local std::string kept;
    if (out == nullptr) return invalid_argument("the pointer to the answer is null");
    Result<std::string> text = value_of(h);
    if (!text) return text.status();
    kept = *text;
    *out = kept.c_str();
    return {};
  });
}

ncclResult_t pncclParamGet(ncclParamHandle_t h, void* out, int maxLen, int* len) {
  return answer("ncclParamGet", [&]() -> Status {
    if (out == nullptr || len == nullptr) return invalid_argument("a pointer is null");
    Result<std::string> text = value_of(h);
    if (!text) return text.status();
    *len = static_cast<int>(text->size());
    if (maxLen < *len)
      return invalid_argument(fmt::format("{} bytes do not hold the value's {}", maxLen, *len));
    std::memcpy(out, text->data(), text->size());
    return {};
  });
}

ncclResult_t pncclParamGetParameter(const char* key, const char** value, int* valueLen) {
  return answer("ncclParamGetParameter", [&]() -> Status {
    thread_local std::string kept;
    if (value == nullptr || valueLen == nullptr) return invalid_argument("a pointer is null");
    Result<const Variable*> entry = entry_named(key);
    if (!entry) return entry.status();
    const Variables set = read_environment();
    const auto found = set.find(key);
    kept = found == set.end() ? std::string() : found->second;
    *value = kept.c_str();
    *valueLen = static_cast<int>(kept.size());
    return {};
  });
}

ncclResult_t pncclParamGetAllParameterKeys(const char*** table, int* tableLen) {
  return answer("ncclParamGetAllParameterKeys", [&]() -> Status {
    thread_local std::vector<const char*> kept;
    if (table == nullptr || tableLen == nullptr) return invalid_argument("a pointer is null");
    kept.clear();
    for (const Variable& v : variables()) kept.push_back(v.name);
    *table = kept.data();
    *tableLen = static_cast<int>(kept.size());
    return {};
  });
}

void pncclParamDumpAll(void) {
  static_cast<void>(answer("ncclParamDumpAll", []() -> Status {
    const Variables set = read_environment();
    const auto wish = set.find("NCCL_PARAM_DUMP_ALL");
    const bool all = wish != set.end() && (wish->second == "1" || wish->second == "true");
    for (const Variable& v : variables()) {
      const auto found = set.find(v.name);
      if (found == set.end() && !all) continue;
      log_line(LogLevel::info, Subsystem::none,
               fmt::format("{} = {} ({}: {})", v.name, found == set.end() ? "" : found->second,
                           v.honoured ? "honoured" : "ignored", v.what));
    }
    return {};
  }));
}

TUTTI_NCCL_PARAMETER_NAMES(TUTTI_NCCL_WEAK_ALIAS)
