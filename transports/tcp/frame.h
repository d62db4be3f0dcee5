// The wire format of a tcp connection after its handshake: frames, as pure functions on bytes.
//
// Every frame is a header of 32 bytes, all fields little endian, and `bytes` of payload. What comes
// from the wire is checked here, against what both ends agreed on, before anything is allocated or
// written: a frame that passes check() fits the memory that is waiting for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "transports/transport.h"
#include "tutti/status.h"

namespace tutti::tcp {

// Changes with any change of this file or of the card; ranks that differ refuse each other.
inline constexpr uint16_t k_frame_version = 2;

enum class FrameKind : uint8_t {
  message = 1,  // a message of the lane, or a stripe of one
  credit = 2,   // only the header: `released` tells
  call = 3,     // the sender's CallRecord; flag k_query asks for the receiver's
  error = 4,    // an ErrorRecord
  goodbye = 5,  // the sender will say no more
};

inline constexpr uint8_t k_query = 1;

struct FrameHeader {
  FrameKind kind = FrameKind::message;
  uint8_t flags = 0;
  uint32_t sequence = 0;  // message: its number in this direction of the lane, modulo 2^32
  uint32_t released =
      0;                // messages of the other direction that the sender has released, modulo 2^32
  uint32_t bytes = 0;   // payload that follows this header
  uint32_t offset = 0;  // message: where in the message the payload begins
  uint32_t total = 0;   // message: length of the whole message
  uint64_t signature = 0;  // message
};

inline constexpr size_t k_header_bytes = 32;
inline constexpr size_t k_call_bytes = 36;
inline constexpr size_t k_max_error_text = 1024;
inline constexpr size_t k_max_control_bytes = 12 + k_max_error_text;

void encode(const FrameHeader& header, std::span<std::byte, k_header_bytes> out);
// Errors: remote_error for a wrong magic, an unknown kind, lengths that contradict each other or
// that no control frame can have. Does not know the lane: see check().
Status decode(std::span<const std::byte, k_header_bytes> in, FrameHeader* header);

// What a message frame may be on its lane.
struct FrameLimits {
  size_t slot_bytes = 0;
  uint32_t credits = 0;
  uint32_t head = 0;  // sequence of the oldest message that has not been released
};
Status check(const FrameHeader& header, const FrameLimits& limits);

// Payloads of control frames. Decoders take exactly the payload and never trust a length.
std::string encode_call(const CallRecord& record);
Status decode_call(std::span<const std::byte> in, CallRecord* record);
std::string encode_error(const ErrorRecord& record);  // cuts the text at k_max_error_text
Status decode_error(std::span<const std::byte> in, ErrorRecord* record);

}  // namespace tutti::tcp
