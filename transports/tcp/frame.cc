// Encoding and decoding of frames: little endian byte by byte, every field checked.
#include "transports/tcp/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

namespace tutti::tcp {
namespace {

constexpr uint16_t k_magic = 0x7454;  // "Tt": catches a stream that has lost its place

class Writer {
 public:
  explicit Writer(std::byte* out) : out_(out) {}
  template <class T>
  Writer& put(T value) {
    static_assert(std::is_unsigned_v<T>);
    for (size_t i = 0; i < sizeof(T); ++i) *out_++ = static_cast<std::byte>(value >> (8 * i));
    return *this;
  }

 private:
  std::byte* out_;
};

class Reader {
 public:
  explicit Reader(const std::byte* in) : in_(in) {}
  template <class T>
  T get() {
    static_assert(std::is_unsigned_v<T>);
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i)
      value = static_cast<T>(value | static_cast<T>(static_cast<T>(*in_++) << (8 * i)));
    return value;
  }
  const std::byte* rest() const { return in_; }

 private:
  const std::byte* in_;
};

Status garbage(std::string what) {
  return Status(Code::remote_error, "unintelligible data on the connection: " + std::move(what));
}

// The payload that a control frame of this kind may have.
bool control_length_ok(const FrameHeader& header) {
  switch (header.kind) {
    case FrameKind::call:
      return header.bytes == k_call_bytes;
    case FrameKind::error:
      return header.bytes >= 12 && header.bytes <= k_max_control_bytes;
    case FrameKind::credit:
    case FrameKind::goodbye:
      return header.bytes == 0;
    case FrameKind::message:
      break;
  }
  return false;
}

}  // namespace

void encode(const FrameHeader& header, std::span<std::byte, k_header_bytes> out) {
  Writer(out.data())
      .put(k_magic)
      .put(static_cast<uint8_t>(header.kind))
      .put(header.flags)
      .put(header.sequence)
      .put(header.released)
      .put(header.bytes)
      .put(header.offset)
      .put(header.total)
      .put(header.signature);
}

Status decode(std::span<const std::byte, k_header_bytes> in, FrameHeader* header) {
  Reader reader(in.data());
  const auto magic = reader.get<uint16_t>();
  if (magic != k_magic) return garbage(fmt::format("magic {:#06x}", magic));
  const auto kind = reader.get<uint8_t>();
  if (kind < static_cast<uint8_t>(FrameKind::message) ||
      kind > static_cast<uint8_t>(FrameKind::goodbye))
    return garbage(fmt::format("frame kind {}", kind));
  header->kind = static_cast<FrameKind>(kind);
  header->flags = reader.get<uint8_t>();
  header->sequence = reader.get<uint32_t>();
  header->released = reader.get<uint32_t>();
  header->bytes = reader.get<uint32_t>();
  header->offset = reader.get<uint32_t>();
  header->total = reader.get<uint32_t>();
  header->signature = reader.get<uint64_t>();
  if (header->kind == FrameKind::message) {
    if (header->bytes == 0 && header->total > 0) return garbage("an empty part of a message");
    if (uint64_t{header->offset} + header->bytes > header->total)
      return garbage(fmt::format("bytes {} at offset {} of a message of {} bytes", header->bytes,
                                 header->offset, header->total));
  } else if (!control_length_ok(*header)) {
    return garbage(fmt::format("control frame {} of {} bytes", kind, header->bytes));
  }
  return {};
}

Status check(const FrameHeader& header, const FrameLimits& limits) {
  if (header.total > limits.slot_bytes)
    return Status(Code::remote_error,
                  fmt::format("a message of {} bytes on a lane that was opened for {} bytes",
                              header.total, limits.slot_bytes));
  if (header.sequence - limits.head >= limits.credits)
    return garbage(fmt::format("message {} where {} to {} may come", header.sequence, limits.head,
                               limits.head + limits.credits - 1));
  return {};
}

std::string encode_call(const CallRecord& record) {
  std::string out(k_call_bytes, '\0');
  Writer(reinterpret_cast<std::byte*>(out.data()))
      .put(record.sequence)
      .put(record.signature)
      .put(record.count)
      .put(static_cast<uint8_t>(record.collective))
      .put(static_cast<uint8_t>(record.dtype))
      .put(static_cast<uint8_t>(record.op))
      .put(record.finished)
      .put(static_cast<uint32_t>(record.root))
      .put(uint32_t{0});
  return out;
}

Status decode_call(std::span<const std::byte> in, CallRecord* record) {
  if (in.size() != k_call_bytes) return garbage(fmt::format("call record of {} bytes", in.size()));
  Reader reader(in.data());
  record->sequence = reader.get<uint64_t>();
  record->signature = reader.get<uint64_t>();
  record->count = reader.get<uint64_t>();
  const auto collective = reader.get<uint8_t>();
  const auto dtype = reader.get<uint8_t>();
  const auto op = reader.get<uint8_t>();
  if (collective >= k_collectives || dtype >= k_dtypes || op >= k_reduce_ops)
    return garbage(fmt::format("call record {}/{}/{}", collective, dtype, op));
  record->collective = static_cast<Collective>(collective);
  record->dtype = static_cast<DType>(dtype);
  record->op = static_cast<ReduceOp>(op);
  record->finished = reader.get<uint8_t>();
  record->root = reader.get<uint32_t>();
  return {};
}

std::string encode_error(const ErrorRecord& record) {
  const size_t length = std::min(record.message.size(), k_max_error_text);
  std::string out(12, '\0');
  Writer(reinterpret_cast<std::byte*>(out.data()))
      .put(static_cast<uint32_t>(record.code))
      .put(static_cast<uint32_t>(record.reporter))
      .put(static_cast<uint32_t>(record.culprit));
  return out.append(record.message, 0, length);
}

Status decode_error(std::span<const std::byte> in, ErrorRecord* record) {
  if (in.size() < 12 || in.size() > 12 + k_max_error_text)
    return garbage(fmt::format("error record of {} bytes", in.size()));
  Reader reader(in.data());
  const auto code = reader.get<uint32_t>();
  if (code == 0 || code > static_cast<uint32_t>(Code::internal_error))
    return garbage(fmt::format("error code {}", code));
  record->code = static_cast<Code>(code);
  record->reporter = reader.get<uint32_t>();
  record->culprit = reader.get<uint32_t>();
  record->message.assign(reinterpret_cast<const char*>(reader.rest()), in.size() - 12);
  return {};
}

}  // namespace tutti::tcp
