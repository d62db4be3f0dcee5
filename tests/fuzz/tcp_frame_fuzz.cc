// link: tutti_transports
// Fuzzes what a tcp connection parses: headers, control payloads, cards, and frames into an inbox.
#include <algorithm>
#include <cstring>
#include <vector>

#include "transports/tcp/card.h"
#include "transports/tcp/frame.h"
#include "transports/tcp/greeting.h"
#include "transports/tcp/inbox.h"

using namespace tutti;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  CallRecord call;
  ErrorRecord error;
  (void)tcp::decode_call(bytes, &call);
  (void)tcp::decode_error(bytes, &error);
  (void)tcp::decode_card({reinterpret_cast<const char*>(data), size}, 0);
  tcp::Inbox inbox(256, 3);
  std::vector<iovec> out;
  for (size_t at = 0; at + tcp::k_header_bytes <= size; at += tcp::k_header_bytes) {
    tcp::FrameHeader header;
    std::span<const std::byte, tcp::k_header_bytes> head(bytes.data() + at, tcp::k_header_bytes);
    if (!tcp::decode(head, &header).ok() || header.kind != tcp::FrameKind::message) continue;
    if (!inbox.begin(header).ok()) continue;
    out.clear();
    if (!inbox.landing(header, 0, &out)) continue;
    for (const iovec& piece : out) std::memset(piece.iov_base, 1, piece.iov_len);
    tcp::Inbox::Arrived arrived;
    inbox.landed(header);
    if (inbox.arrived(0, &arrived)) inbox.release();
  }
  return 0;
}
