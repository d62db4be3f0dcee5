// Status and Result: how every fallible call of tutti reports what went wrong.
//
// Errors come in two families: the caller's bug (invalid_argument, invalid_usage) and the broken
// world (system_error, remote_error, timeout). A message names the culprit: the argument, the rank,
// the peer, the operation. Nothing in the library prints, throws across its API or aborts.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <variant>

namespace [[gnu::visibility("default")]] tutti {  // all else in libtutti.so is hidden

enum class Code : unsigned char {
  ok,
  in_progress,       // asked of an unfinished asynchronous operation
  invalid_argument,  // the caller's bug: a value that can never be right
  invalid_usage,     // the caller's bug: right values, wrong moment, or ranks that disagree
  unsupported,       // not available on this machine or in this build
  system_error,      // the operating system said no
  remote_error,      // a peer failed, left or spoke garbage
  timeout,           // a deadline that the caller set has passed
  aborted,           // abort() was called on the communicator
  device_error,      // the CUDA driver is missing, too old, or said no
  internal_error,    // a bug of tutti
};

const char* name(Code code);

// A code and, unless ok, one sentence. Cheap to return when ok (one null pointer).
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message)
      : error_(code == Code::ok ? nullptr
                                : std::make_shared<const Error>(Error{code, std::move(message)})) {}

  bool ok() const { return error_ == nullptr; }
  Code code() const { return error_ ? error_->code : Code::ok; }
  const std::string& message() const {
    static const std::string k_none;
    return error_ ? error_->message : k_none;
  }
  // "remote_error: rank 7: peer 3 ... closed the connection"
  std::string to_string() const;
  // The same code with `context` put before the message, for callers that know more.
  Status with_context(const std::string& context) const {
    return ok() ? *this : Status(code(), context + ": " + message());
  }

 private:
  struct Error {
    Code code;
    std::string message;
  };
  std::shared_ptr<const Error> error_;
};

// A value or the Status that explains why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::in_place_index<0>, std::move(value)) {}         // NOLINT
  Result(Status status) : value_(std::in_place_index<1>, std::move(status)) {}  // NOLINT

  bool ok() const { return value_.index() == 0; }
  explicit operator bool() const { return ok(); }
  Status status() const { return ok() ? Status() : std::get<1>(value_); }
  T& value() & { return std::get<0>(value_); }
  const T& value() const& { return std::get<0>(value_); }
  T&& value() && { return std::get<0>(std::move(value_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> value_;
};

}  // namespace tutti

// Return early with the Status of `expression` unless it is ok.
#define TUTTI_RETURN_IF_ERROR(expression)                                                        \
  do {                                                                                           \
    if (::tutti::Status tutti_status_ = (expression); !tutti_status_.ok()) return tutti_status_; \
  } while (false)
