// The parsers of wire data: round trips, and that no bytes whatever crash them or make them
// allocate.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>

#include "transports/tcp/card.h"
#include "transports/tcp/frame.h"
#include "transports/tcp/greeting.h"
#include "transports/tcp/inbox.h"

namespace tutti::tcp {
namespace {

using HeaderBytes = std::array<std::byte, k_header_bytes>;

HeaderBytes encoded(const FrameHeader& header) {
  HeaderBytes bytes;
  encode(header, bytes);
  return bytes;
}

FrameHeader message_header() {
  FrameHeader header;
  header.sequence = 0x01020304;
  header.released = 0xfffffff0;
  header.bytes = 100;
  header.offset = 28;
  header.total = 128;
  header.signature = 0x1122334455667788;
  return header;
}

TEST(TcpFrame, RoundTrip) {
  const FrameHeader in = message_header();
  FrameHeader out;
  ASSERT_TRUE(decode(encoded(in), &out).ok());
  EXPECT_EQ(out.kind, FrameKind::message);
  EXPECT_EQ(out.sequence, in.sequence);
  EXPECT_EQ(out.released, in.released);
  EXPECT_EQ(out.bytes, in.bytes);
  EXPECT_EQ(out.offset, in.offset);
  EXPECT_EQ(out.total, in.total);
  EXPECT_EQ(out.signature, in.signature);
}

// The layout is a contract between machines: these bytes may only change with k_frame_version.
TEST(TcpFrame, LayoutIsFixed) {
  const HeaderBytes bytes = encoded(message_header());
  const std::array<unsigned char, k_header_bytes> expected{
      0x54, 0x74, 1, 0, 4,   3, 2, 1, 0xf0, 0xff, 0xff, 0xff, 100,  0,    0,    0,
      28,   0,    0, 0, 128, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
  EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), expected.size()), 0);
}

TEST(TcpFrame, RefusesLengthsThatCannotBe) {
  FrameHeader out;
  FrameHeader header = message_header();
  header.total = 127;
  EXPECT_EQ(decode(encoded(header), &out).code(), Code::remote_error);
  header = message_header();
  header.bytes = 0xffffffff;
  header.offset = 0xffffffff;
  EXPECT_FALSE(decode(encoded(header), &out).ok());
  for (const FrameKind kind : {FrameKind::credit, FrameKind::goodbye, FrameKind::call}) {
    header = {};
    header.kind = kind;
    header.bytes = 1;
    EXPECT_FALSE(decode(encoded(header), &out).ok());
  }
  header.kind = FrameKind::error;
  header.bytes = k_max_control_bytes + 1;
  EXPECT_FALSE(decode(encoded(header), &out).ok());
  header.bytes = k_max_control_bytes;
  EXPECT_TRUE(decode(encoded(header), &out).ok());
}

TEST(TcpFrame, ChecksAgainstTheLane) {
  FrameHeader header = message_header();
  header.sequence = 2;
  EXPECT_TRUE(check(header, {128, 4, 0xffffffff}).ok()) << "the window may wrap";
  EXPECT_FALSE(check(header, {127, 4, 0}).ok());
  EXPECT_FALSE(check(header, {128, 2, 0}).ok());
  EXPECT_FALSE(check(header, {128, 4, 3}).ok());
}

TEST(TcpFrame, RandomBytesNeverCrash) {
  std::mt19937_64 random(1);
  int accepted = 0;
  for (int i = 0; i < 200000; ++i) {
    HeaderBytes bytes = encoded(message_header());
    const size_t changes = 1 + random() % 4;
    for (size_t c = 0; c < changes; ++c) bytes[random() % bytes.size()] = std::byte(random());
    FrameHeader header;
    if (!decode(bytes, &header).ok()) continue;
    ++accepted;
    const bool message = header.kind == FrameKind::message;
    EXPECT_LE(header.bytes + (message ? uint64_t{header.offset} : 0),
              message ? header.total : k_max_control_bytes);
  }
  EXPECT_GT(accepted, 1000);
}

TEST(TcpFrame, ControlPayloads) {
  CallRecord call;
  call.sequence = 7;
  call.signature = 8;
  call.count = uint64_t{1} << 40;
  call.collective = Collective::scatter;
  call.dtype = DType::float8_e5m2;
  call.op = ReduceOp::premul_sum;
  call.finished = 1;
  call.root = 77;
  const std::string text = encode_call(call);
  CallRecord out;
  ASSERT_TRUE(decode_call(std::as_bytes(std::span(text)), &out).ok());
  EXPECT_EQ(out.count, call.count);
  EXPECT_EQ(out.collective, call.collective);
  EXPECT_EQ(out.dtype, call.dtype);
  EXPECT_EQ(out.op, call.op);
  EXPECT_EQ(out.root, call.root);
  EXPECT_EQ(out.finished, 1);

  ErrorRecord error{Code::timeout, 3, 4, std::string(5000, 'x')};
  const std::string long_text = encode_error(error);
  EXPECT_EQ(long_text.size(), k_max_control_bytes);
  ErrorRecord back;
  ASSERT_TRUE(decode_error(std::as_bytes(std::span(long_text)), &back).ok());
  EXPECT_EQ(back.code, Code::timeout);
  EXPECT_EQ(back.reporter, 3u);
  EXPECT_EQ(back.culprit, 4u);
  EXPECT_EQ(back.message, std::string(k_max_error_text, 'x'));
}

TEST(TcpFrame, RandomPayloadsNeverCrash) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 50000; ++i) {
    std::vector<std::byte> bytes(random() % 60);
    for (auto& b : bytes) b = std::byte(random() % 16);
    CallRecord call;
    const bool is_call = decode_call(bytes, &call).ok();
    if (is_call) {
      EXPECT_EQ(bytes.size(), k_call_bytes);
      EXPECT_TRUE(valid(call.dtype));
    }
    ErrorRecord error;
    if (decode_error(bytes, &error).ok()) {
      EXPECT_EQ(error.message.size(), bytes.size() - 12);
    }
  }
}

// Any frames that decode and pass begin() land inside the slot or the pieces.
TEST(TcpInbox, RandomFramesStayInBounds) {
  std::mt19937_64 random(3);
  std::vector<std::byte> memory(64);
  for (int round = 0; round < 300; ++round) {
    Inbox inbox(64, 3);
    for (int i = 0; i < 100; ++i) {
      FrameHeader header;
      header.sequence = static_cast<uint32_t>(random() % 6);
      header.total = static_cast<uint32_t>(random() % 80);
      header.offset = header.total ? static_cast<uint32_t>(random() % header.total) : 0;
      header.bytes = (header.total - header.offset) / (1 + random() % 2);
      header.signature = random() % 2;
      const iovec piece{memory.data(), memory.size()};
      const bool posted = random() % 2;
      if (posted) inbox.post({&piece, 1});
      if (inbox.begin(header).ok()) {
        std::vector<iovec> out;
        if (inbox.landing(header, 0, &out)) {
          EXPECT_EQ(total_bytes(out), header.bytes);
          for (const iovec& part : out) std::memset(part.iov_base, i, part.iov_len);
          inbox.landed(header);
        }
      }
      inbox.unpost();
      Inbox::Arrived arrived;
      if (random() % 3 == 0 && inbox.arrived(0, &arrived)) {
        EXPECT_LE(arrived.bytes, 64u);
        inbox.release();
      }
    }
  }
}

TEST(TcpInbox, StripesMeetInOneMessage) {
  Inbox inbox(100, 2);
  FrameHeader second{FrameKind::message, 0, 0, 0, 60, 40, 100, 5};
  FrameHeader first{FrameKind::message, 0, 0, 0, 40, 0, 100, 5};
  Inbox::Arrived arrived;
  for (FrameHeader* header : {&second, &first}) {
    EXPECT_FALSE(inbox.arrived(0, &arrived));
    ASSERT_TRUE(inbox.begin(*header).ok());
    std::vector<iovec> out;
    ASSERT_TRUE(inbox.landing(*header, 0, &out));
    std::memset(out[0].iov_base, header == &first ? 1 : 2, header->bytes);
    inbox.landed(*header);
  }
  ASSERT_TRUE(inbox.arrived(0, &arrived));
  EXPECT_EQ(arrived.data[39], std::byte{1});
  EXPECT_EQ(arrived.data[40], std::byte{2});
  EXPECT_FALSE(inbox.begin(first).ok()) << "the same message twice";
  first.sequence = 1;
  second.sequence = 1;
  second.signature = 6;
  ASSERT_TRUE(inbox.begin(first).ok());
  EXPECT_FALSE(inbox.begin(second).ok()) << "stripes that disagree";
}

TEST(TcpCard, RoundTripWithinTheLimit) {
  Card card;
  card.host = std::string(200, 'h');
  card.pid = 4000000000;
  uint8_t interface = 0;
  for (const char* text : {"10.1.2.3:4", "[::1]:65535", "[fe80::1%lo]:7", "127.0.0.1:1",
                           "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1", "1.1.1.4:1", "1.1.1.5:1"})
    card.addresses.push_back({*Address::parse(text), interface++});
  const std::string text = encode_card(card);
  EXPECT_LE(text.size(), 512u);
  auto back = decode_card(text, 0);
  ASSERT_TRUE(back.ok()) << back.status().to_string();
  EXPECT_EQ(back->host, std::string(64, 'h'));
  EXPECT_EQ(back->pid, card.pid);
  ASSERT_EQ(back->addresses.size(), k_most_addresses);
  for (size_t i = 0; i < k_most_addresses; ++i) {
    EXPECT_EQ(back->addresses[i].address, card.addresses[i].address);
    EXPECT_EQ(back->addresses[i].interface, i);
  }
  EXPECT_EQ(back->interfaces(), k_most_addresses);
}

Interface interface_at(const char* name, const char* address, uint8_t prefix) {
  return {name, 1, *Address::parse(address), false, prefix};
}
Card card_of(std::vector<CardAddress> addresses) { return {"host", 1, std::move(addresses)}; }
// "10.0.0.1>10.0.0.2 >10.0.1.2": from and to, in order.
std::string text_of(const std::vector<Way>& ways) {
  std::string text;
  const auto bare = [](const Address& a) {
    const std::string whole = a.to_string();
    return whole.substr(0, whole.rfind(':'));
  };
  for (const Way& w : ways)
    text += (text.empty() ? "" : " ") + (w.from.valid() ? bare(w.from) : std::string()) + ">" +
            bare(w.to);
  return text;
}

TEST(TcpWays, OneInterfaceOnBothSidesLeavesTheChoiceToTheKernel) {
  const Card card =
      card_of({{*Address::parse("10.0.0.2:5"), 0}, {*Address::parse("[fd00::2]:5"), 0}});
  const std::vector<Interface> mine = {interface_at("eth0", "10.0.0.1", 24),
                                       interface_at("eth0", "fd00::1", 64)};
  for (uint32_t stripe : {0u, 1u, 5u})
    EXPECT_EQ(text_of(ways_to(card, mine, stripe)), ">10.0.0.2 >[fd00::2]");
}

TEST(TcpWays, StripesGoOverInterfacesOfTheirOwn) {
  const Card card =
      card_of({{*Address::parse("10.0.0.2:5"), 0}, {*Address::parse("10.0.1.2:6"), 1}});
  const std::vector<Interface> mine = {interface_at("eth0", "10.0.0.1", 24),
                                       interface_at("eth1", "10.0.1.1", 24)};
  EXPECT_EQ(text_of(ways_to(card, mine, 0)),
            "10.0.0.1>10.0.0.2 10.0.0.1>10.0.1.2 >10.0.0.2 >10.0.1.2");
  EXPECT_EQ(text_of(ways_to(card, mine, 1)),
            "10.0.1.1>10.0.1.2 10.0.1.1>10.0.0.2 >10.0.0.2 >10.0.1.2");
  EXPECT_EQ(text_of(ways_to(card, mine, 2)), text_of(ways_to(card, mine, 0)));
  // The peer lists its interfaces the other way round: networks tell which belong together.
  const Card turned =
      card_of({{*Address::parse("10.0.1.2:6"), 0}, {*Address::parse("10.0.0.2:5"), 1}});
  EXPECT_TRUE(text_of(ways_to(turned, mine, 0)).starts_with("10.0.0.1>10.0.0.2 "));
  EXPECT_TRUE(text_of(ways_to(turned, mine, 1)).starts_with("10.0.1.1>10.0.1.2 "));
  // Networks behind routers: by number.
  const Card far =
      card_of({{*Address::parse("10.9.0.2:5"), 0}, {*Address::parse("10.9.1.2:6"), 1}});
  EXPECT_TRUE(text_of(ways_to(far, mine, 0)).starts_with("10.0.0.1>10.9.0.2 "));
  EXPECT_TRUE(text_of(ways_to(far, mine, 1)).starts_with("10.0.1.1>10.9.1.2 "));
}

TEST(TcpWays, UnequalNumbersOfInterfaces) {
  const Card two =
      card_of({{*Address::parse("10.0.0.2:5"), 0}, {*Address::parse("10.0.0.3:6"), 1}});
  const std::vector<Interface> one = {interface_at("eth0", "10.0.0.1", 24)};
  EXPECT_TRUE(text_of(ways_to(two, one, 0)).starts_with("10.0.0.1>10.0.0.2 "));
  EXPECT_TRUE(text_of(ways_to(two, one, 1)).starts_with("10.0.0.1>10.0.0.3 "));
  const Card single = card_of({{*Address::parse("10.0.0.2:5"), 0}});
  const std::vector<Interface> three = {interface_at("eth0", "10.0.0.1", 24),
                                        interface_at("eth1", "10.0.1.1", 24),
                                        interface_at("ib0", "fd00::1", 64)};
  EXPECT_EQ(text_of(ways_to(single, three, 1)), "10.0.1.1>10.0.0.2 >10.0.0.2");
  EXPECT_EQ(text_of(ways_to(single, three, 2)), ">10.0.0.2");  // no address of that family
}

TEST(TcpCard, GarbageIsRefused) {
  Card card{"host", 1, {{*Address::parse("10.1.2.3:4"), 0}}};
  const std::string good = encode_card(card);
  for (size_t length = 0; length < good.size(); ++length)
    EXPECT_FALSE(decode_card(good.substr(0, length), 0).ok()) << length;
  EXPECT_FALSE(decode_card(good + "x", 0).ok());
  std::string other = good;
  other[10 + 4] = static_cast<char>(k_most_addresses);  // the interface's number
  EXPECT_EQ(decode_card(other, 0).status().code(), Code::invalid_argument);
  other = good;
  other[3] = static_cast<char>(k_frame_version + 1);
  EXPECT_EQ(decode_card(other, 0).status().code(), Code::unsupported);
  std::mt19937_64 random(4);
  for (int i = 0; i < 20000; ++i) {
    std::string text = good;
    text[random() % text.size()] = static_cast<char>(random());
    const auto decoded = decode_card(text, 0);
    if (decoded.ok()) {
      EXPECT_LE(decoded->addresses.size(), k_most_addresses);
    }
  }
}

TEST(TcpPurport, RoundTrip) {
  const Purport in{0x01020304, 3, 4, 0x1122334455667788, 1 << 20, 17};
  Purport out;
  auto data = encode_purport(in);
  ASSERT_TRUE(decode_purport(data, &out).ok());
  EXPECT_EQ(out.lane, in.lane);
  EXPECT_EQ(out.stripe, in.stripe);
  EXPECT_EQ(out.stripes, in.stripes);
  EXPECT_EQ(out.job, in.job);
  EXPECT_EQ(out.slot_bytes, in.slot_bytes);
  EXPECT_EQ(out.credits, in.credits);
  data[0] ^= std::byte{1};
  EXPECT_EQ(decode_purport(data, &out).code(), Code::unsupported);
}

}  // namespace
}  // namespace tutti::tcp
