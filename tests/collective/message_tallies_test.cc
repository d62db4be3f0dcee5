// The tallies of messages by which the two ends of a pair find out that one has a host buffer where
// the other has a device buffer.
#include "src/communicator/message_tallies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace tutti {
namespace {

using testing::HasSubstr;

constexpr uint64_t k_host = MessageTallies::k_on_host, k_device = MessageTallies::k_on_device;

// Ranks 1 and 4 of 6, which see each other's tallies, or hear of them by letters.
struct Pair {
  explicit Pair(bool by_letters = false) : letters(by_letters) {
    for (MessageTallies* t : {&one, &four}) {
      const size_t bytes = MessageTallies::bytes(6);
      std::shared_ptr<std::byte> memory(new std::byte[bytes], std::default_delete<std::byte[]>());
      std::memset(memory.get(), 0, bytes);
      t->show(memory);
    }
    one.compare(4, letters ? nullptr : four.shown_memory());
    four.compare(1, letters ? nullptr : one.shown_memory());
  }
  void talk() {
    if (!letters) return;
    four.hear(1, one.told(1000));
    one.hear(4, four.told(1000));
  }
  // What rank 4 finds, and rank 1 alike.
  std::string found() {
    talk();
    const std::optional<Status> a = one.contradiction(), b = four.contradiction();
    EXPECT_EQ(a.has_value(), b.has_value());
    if (!a || !b) return {};
    EXPECT_EQ(a->code(), Code::invalid_usage);
    EXPECT_EQ(a->message(), b->message());
    return b->message();
  }
  const bool letters;
  MessageTallies one{1, 6}, four{4, 6};
};

TEST(MessageTallies, AnotherKindAtTheOtherEndIsNamed) {
  for (const bool letters : {false, true})
    for (const bool sends : {true, false})
      for (const uint64_t kind : {k_host, k_device})
        for (uint32_t number : {1u, 2u, 10u}) {
          Pair pair(letters);
          for (uint32_t m = 1; m < number; ++m) {
            const uint64_t same = m % 3 == 0 ? k_device : k_host;
            pair.one.add(4, sends, same);
            EXPECT_EQ(pair.found(), "");
            pair.four.add(1, !sends, same);
            EXPECT_EQ(pair.found(), "");
          }
          pair.one.add(4, sends, kind);
          EXPECT_EQ(pair.found(), "");
          pair.four.add(1, !sends, k_host + k_device - kind);
          const std::string mine = kind == k_host ? "host" : "device",
                            theirs = kind == k_host ? "device" : "host";
          EXPECT_EQ(pair.found(), "rank " + std::string(sends ? "1" : "4") + " sends message " +
                                      std::to_string(number) + " to rank " + (sends ? "4" : "1") +
                                      " from " + (sends ? mine : theirs) + " memory, but rank " +
                                      (sends ? "4" : "1") + " receives it into " +
                                      (sends ? theirs : mine) + " memory");
        }
}

TEST(MessageTallies, DirectionsPeersAndSelfAreApart) {
  Pair pair;
  pair.one.add(4, true, k_host);
  pair.four.add(1, true, k_device);
  pair.one.add(3, true, k_host);
  pair.four.add(3, false, k_device);
  pair.one.add(1, true, k_host);
  pair.one.add(1, false, k_device);
  EXPECT_EQ(pair.found(), "");
}

TEST(MessageTallies, WhatWasCapturedIsNotCompared) {
  for (const bool letters : {false, true}) {
    Pair pair(letters);
    pair.one.leave_out(4);
    pair.one.add(4, true, k_host);
    pair.four.add(1, false, k_device);
    EXPECT_EQ(pair.found(), "");
    pair.one.add(4, false, k_host);
    pair.four.add(1, true, k_device);
    EXPECT_EQ(pair.found(), "");
  }
}

TEST(MessageTallies, WhatWasCountedBeforeTheyAreSeenCounts) {
  MessageTallies one(0, 2), other(1, 2);
  one.add(1, true, k_host);
  other.add(0, false, k_device);
  EXPECT_FALSE(one.contradiction());
  std::shared_ptr<std::byte> memory(new std::byte[MessageTallies::bytes(2)](),
                                    std::default_delete<std::byte[]>());
  other.show(memory);
  one.compare(1, memory);
  EXPECT_TRUE(one.contradiction());
}

TEST(MessageTallies, NumbersWrap) {
  Pair pair;
  const uint64_t most = UINT32_MAX;
  for (const uint64_t half : {most / 2, most - most / 2}) {
    pair.one.add(4, true, half);
    pair.four.add(1, false, half);
  }
  pair.one.add(4, true, k_host);
  EXPECT_EQ(pair.found(), "");
  pair.four.add(1, false, k_device);
  EXPECT_NE(pair.found(), "");
}

TEST(MessageTallies, LettersHaveARoomAndMayBeAnything) {
  MessageTallies one(0, 100);
  for (Rank r = 1; r < 100; ++r) {
    one.compare(r, nullptr);
    one.add(r, true, k_host);
  }
  EXPECT_EQ(one.told(1000).size(), 1000u / 20 * 20);
  EXPECT_EQ(one.told(19).size(), 0u);
  MessageTallies other(7, 100);
  other.compare(0, nullptr);
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    std::string text(random() % 100, '\0');
    for (char& c : text) c = static_cast<char>(random());
    other.hear(static_cast<Rank>(random()), text);
  }
}

// Any order of a group's messages, any moments of looking: ends that make the same messages are
// never accused.
TEST(MessageTallies, ConsistentEndsAreNeverAccused) {
  std::mt19937 random(7);
  for (int world = 0; world < 50; ++world) {
    Pair pair;
    std::vector<uint64_t> all(200);
    for (uint64_t& kind : all) kind = random() % 2 == 0 ? k_host : k_device;
    size_t at[2] = {};
    while (at[0] < all.size() || at[1] < all.size()) {
      const int end = static_cast<int>(random() % 2);
      uint64_t group = 0;
      for (size_t size = 1 + random() % 4; size > 0 && at[end] < all.size(); --size)
        group += all[at[end]++];
      if (end == 0) pair.one.add(4, true, group);
      if (end == 1) pair.four.add(1, false, group);
      ASSERT_EQ(pair.found(), "");
    }
  }
}

}  // namespace
}  // namespace tutti
