// The handshake: honest ends, strangers, other versions, replay, reflection, garbage, slowness.
#include "src/base/auth.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace tutti {
namespace {

using namespace std::chrono_literals;

struct Pair {
  Fd client, server;
};

Pair make_pair() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

Key key_of(unsigned char fill) {
  Key key;
  key.fill(std::byte{fill});
  return key;
}

Hello hello_of(uint32_t rank) {
  Hello hello;
  hello.rank = rank;
  hello.plan_format = 7;
  hello.data[0] = std::byte(rank + 1);
  hello.data[23] = std::byte{0x5a};
  return hello;
}

SocketDeadline soon() { return SocketClock::now() + 20s; }

// Drives two handshakes over a socket pair in turns until both have ended.
void drive(Handshake& a, int fd_a, Handshake& b, int fd_b) {
  AuthState state_a = AuthState::working;
  AuthState state_b = AuthState::working;
  while (state_a == AuthState::working || state_b == AuthState::working) {
    if (state_a == AuthState::working) state_a = a.advance(fd_a);
    if (state_a == AuthState::failed) ::shutdown(fd_a, SHUT_RDWR);
    if (state_b == AuthState::working) state_b = b.advance(fd_b);
    if (state_b == AuthState::failed) ::shutdown(fd_b, SHUT_RDWR);
  }
}

std::vector<std::byte> hex(std::string_view text) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(std::byte(std::stoi(std::string(text.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

std::vector<std::byte> text_bytes(std::string_view text) {
  auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

// RFC 4231, test cases 1, 2, 3 and 6 (a key longer than a block).
TEST(Hmac, rfc_4231_vectors) {
  struct Vector {
    std::vector<std::byte> key, data;
    const char* mac;
  };
  const Vector vectors[] = {
      {std::vector(20, std::byte{0x0b}), text_bytes("Hi There"),
       "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
      {text_bytes("Jefe"), text_bytes("what do ya want for nothing?"),
       "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
      {std::vector(20, std::byte{0xaa}), std::vector(50, std::byte{0xdd}),
       "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
      {std::vector(131, std::byte{0xaa}),
       text_bytes("Test Using Larger Than Block-Size Key - Hash Key First"),
       "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
  };
  for (const Vector& v : vectors) {
    Mac whole = hmac_sha256(v.key, {v.data});
    auto expected = hex(v.mac);
    EXPECT_EQ(std::memcmp(whole.data(), expected.data(), 32), 0) << v.mac;
    std::span<const std::byte> data(v.data);
    Mac pieces = hmac_sha256(v.key, {data.first(3), data.subspan(3)});
    EXPECT_TRUE(equal_in_constant_time(whole, pieces));
  }
}

TEST(Hmac, derived_keys_differ_by_label_and_secret) {
  EXPECT_NE(derive_key(key_of(1), "a"), derive_key(key_of(1), "b"));
  EXPECT_NE(derive_key(key_of(1), "a"), derive_key(key_of(2), "a"));
  EXPECT_EQ(derive_key(key_of(1), "a"), derive_key(key_of(1), "a"));
}

TEST(Auth, honest_ends_learn_each_other_and_share_a_session_key) {
  Pair pair = make_pair();
  Handshake client(Role::client, key_of(1), hello_of(3), "server", soon());
  Handshake server(Role::server, key_of(1), hello_of(5), "client", soon());
  drive(client, pair.client.get(), server, pair.server.get());
  ASSERT_TRUE(client.status().ok()) << client.status().to_string();
  ASSERT_TRUE(server.status().ok()) << server.status().to_string();
  EXPECT_EQ(client.peer_hello().rank, 5u);
  EXPECT_EQ(server.peer_hello().rank, 3u);
  EXPECT_EQ(server.peer_hello().data, hello_of(3).data);
  EXPECT_EQ(client.session_key(), server.session_key());
}

TEST(Auth, session_keys_are_fresh) {
  Key keys[2];
  for (Key& key : keys) {
    Pair pair = make_pair();
    Handshake client(Role::client, key_of(1), hello_of(3), "server", soon());
    Handshake server(Role::server, key_of(1), hello_of(5), "client", soon());
    drive(client, pair.client.get(), server, pair.server.get());
    key = client.session_key();
  }
  EXPECT_NE(keys[0], keys[1]);
}

TEST(Auth, blocking_form_leaves_following_data_alone) {
  Pair pair = make_pair();
  std::thread client([&] {
    auto result = authenticate(pair.client.get(), Role::client, key_of(9), hello_of(1), soon());
    ASSERT_TRUE(result.ok()) << result.status().to_string();
    EXPECT_TRUE(write_exactly(pair.client.get(), "next", 4, soon()).ok());
  });
  auto result = authenticate(pair.server.get(), Role::server, key_of(9), hello_of(2), soon());
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  EXPECT_EQ(result->peer.rank, 1u);
  char data[4];
  ASSERT_TRUE(read_exactly(pair.server.get(), data, 4, soon()).ok());
  EXPECT_EQ(std::string(data, 4), "next");
  client.join();
}

TEST(Auth, wrong_secret_is_told_on_both_ends) {
  Pair pair = make_pair();
  Handshake client(Role::client, key_of(1), hello_of(3), "the server", soon());
  Handshake server(Role::server, key_of(2), hello_of(5), "the client", soon());
  drive(client, pair.client.get(), server, pair.server.get());
  EXPECT_EQ(client.status().code(), Code::remote_error);
  EXPECT_EQ(server.status().code(), Code::remote_error);
  EXPECT_NE(client.status().message().find("the server has another secret"), std::string::npos);
  EXPECT_NE(server.status().message().find("the client has another secret"), std::string::npos);
}

TEST(Auth, plan_formats_and_purposes_must_agree) {
  for (bool purpose : {false, true}) {
    Pair pair = make_pair();
    Hello other = hello_of(5);
    if (purpose) other.purpose = Purpose::tcp;
    if (!purpose) other.plan_format = 8;
    Handshake client(Role::client, key_of(1), hello_of(3), "the server", soon());
    Handshake server(Role::server, key_of(1), other, "the client", soon());
    drive(client, pair.client.get(), server, pair.server.get());
    const char* expected = purpose ? "kind" : "plan format";
    EXPECT_NE(client.status().message().find(expected), std::string::npos)
        << client.status().to_string();
    EXPECT_NE(server.status().message().find(expected), std::string::npos)
        << server.status().to_string();
  }
}

// A raw end that says what the test wants.
struct Raw {
  Pair pair = make_pair();
  std::array<std::byte, 64> honest_hello() {
    Pair other = make_pair();
    Handshake client(Role::client, key_of(1), hello_of(3), "", soon());
    client.advance(other.client.get());
    std::array<std::byte, 64> frame;
    EXPECT_TRUE(read_exactly(other.server.get(), frame.data(), 64, soon()).ok());
    return frame;
  }
};

TEST(Auth, other_version_names_both_on_both_ends) {
  Raw raw;
  auto frame = raw.honest_hello();
  frame[4] = std::byte{9};
  ASSERT_TRUE(write_exactly(raw.pair.client.get(), frame.data(), 64, soon()).ok());
  auto result = authenticate(raw.pair.server.get(), Role::server, key_of(1), hello_of(0), soon());
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), Code::unsupported);
  EXPECT_NE(result.status().message().find("wire version 9"), std::string::npos);
  EXPECT_NE(result.status().message().find("version 1"), std::string::npos);
  // The refused side gets the server's hello, so that it can tell as well; and no proof.
  std::array<std::byte, 96> reply;
  ASSERT_TRUE(read_exactly(raw.pair.client.get(), reply.data(), 96, soon()).ok());
  EXPECT_EQ(reply[4], std::byte{1});
  EXPECT_TRUE(
      std::all_of(reply.begin() + 64, reply.end(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST(Auth, other_endianness_is_named) {
  Raw raw;
  auto frame = raw.honest_hello();
  frame[6] = frame[6] == std::byte{1} ? std::byte{2} : std::byte{1};
  ASSERT_TRUE(write_exactly(raw.pair.client.get(), frame.data(), 64, soon()).ok());
  auto result = authenticate(raw.pair.server.get(), Role::server, key_of(1), hello_of(0), soon());
  EXPECT_EQ(result.status().code(), Code::unsupported);
  EXPECT_NE(result.status().message().find("endian"), std::string::npos);
}

TEST(Auth, a_stranger_gets_no_answer) {
  Raw raw;
  std::string request =
      "GET / HTTP/1.1\r\nHost: somewhere.example.org\r\nUser-Agent: a scan\r\n\r\n";
  ASSERT_TRUE(write_exactly(raw.pair.client.get(), request.data(), request.size(), soon()).ok());
  auto result = authenticate(raw.pair.server.get(), Role::server, key_of(1), hello_of(0), soon());
  EXPECT_NE(result.status().message().find("does not speak tutti"), std::string::npos);
  raw.pair.server.reset();
  char byte;
  Status read = read_exactly(raw.pair.client.get(), &byte, 1, soon());
  EXPECT_EQ(read.code(), Code::remote_error);
}

TEST(Auth, closing_at_every_byte_is_an_error_not_a_hang) {
  Raw raw;
  auto frame = raw.honest_hello();
  for (size_t bytes : {0, 1, 8, 63, 64}) {
    Pair pair = make_pair();
    ASSERT_TRUE(write_exactly(pair.client.get(), frame.data(), bytes, soon()).ok());
    pair.client.reset();
    auto result = authenticate(pair.server.get(), Role::server, key_of(1), hello_of(0), soon());
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.status().code(), Code::remote_error) << result.status().to_string();
    EXPECT_NE(result.status().message().find("closed"), std::string::npos);
  }
}

TEST(Auth, slow_loris_ends_at_the_deadline) {
  Raw raw;
  auto frame = raw.honest_hello();
  ASSERT_TRUE(write_exactly(raw.pair.client.get(), frame.data(), 10, soon()).ok());
  auto result = authenticate(raw.pair.server.get(), Role::server, key_of(1), hello_of(0),
                             SocketClock::now() + 30ms);
  EXPECT_EQ(result.status().code(), Code::timeout);
  EXPECT_NE(result.status().message().find("too slow"), std::string::npos);
}

// Everything an honest client sent is sent again to a second server: its nonce differs, so does the
// proof that it wants.
TEST(Auth, a_replayed_client_is_refused) {
  Pair pair = make_pair();
  Handshake server(Role::server, key_of(1), hello_of(5), "first", soon());
  Handshake client(Role::client, key_of(1), hello_of(3), "server", soon());
  std::array<std::byte, 64> hello;
  std::array<std::byte, 96> reply;
  std::array<std::byte, 32> proof;
  Pair tap = make_pair();  // client <-> tap, tap <-> server
  client.advance(tap.client.get());
  ASSERT_TRUE(read_exactly(tap.server.get(), hello.data(), 64, soon()).ok());
  ASSERT_TRUE(write_exactly(pair.client.get(), hello.data(), 64, soon()).ok());
  server.advance(pair.server.get());
  ASSERT_TRUE(read_exactly(pair.client.get(), reply.data(), 96, soon()).ok());
  ASSERT_TRUE(write_exactly(tap.server.get(), reply.data(), 96, soon()).ok());
  ASSERT_EQ(client.advance(tap.client.get()), AuthState::done);
  ASSERT_TRUE(read_exactly(tap.server.get(), proof.data(), 32, soon()).ok());
  ASSERT_TRUE(write_exactly(pair.client.get(), proof.data(), 32, soon()).ok());
  ASSERT_EQ(server.advance(pair.server.get()), AuthState::done);

  Pair again = make_pair();
  ASSERT_TRUE(write_exactly(again.client.get(), hello.data(), 64, soon()).ok());
  ASSERT_TRUE(write_exactly(again.client.get(), proof.data(), 32, soon()).ok());
  auto second = authenticate(again.server.get(), Role::server, key_of(1), hello_of(5), soon());
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("another secret"), std::string::npos);
}

// A server that does not know the key sends the client's own words back.
TEST(Auth, a_reflected_hello_and_proof_are_refused) {
  Pair pair = make_pair();
  Handshake client(Role::client, key_of(1), hello_of(3), "mirror", soon());
  client.advance(pair.client.get());
  std::array<std::byte, 96> mirror{};
  ASSERT_TRUE(read_exactly(pair.server.get(), mirror.data(), 64, soon()).ok());
  // The best it can do for a proof: ask a real *server* with the reflected hello as client's hello.
  Pair oracle = make_pair();
  ASSERT_TRUE(write_exactly(oracle.client.get(), mirror.data(), 64, soon()).ok());
  Handshake helper(Role::server, key_of(1), hello_of(3), "", soon());
  helper.advance(oracle.server.get());
  std::array<std::byte, 96> reply;
  ASSERT_TRUE(read_exactly(oracle.client.get(), reply.data(), 96, soon()).ok());
  std::memcpy(&mirror[64], &reply[64], 32);
  ASSERT_TRUE(write_exactly(pair.server.get(), mirror.data(), 96, soon()).ok());
  EXPECT_EQ(client.advance(pair.client.get()), AuthState::failed);
  EXPECT_NE(client.status().message().find("another secret"), std::string::npos);
}

// The server's own proof does not pass as a client's: roles are part of it.
TEST(Auth, the_servers_proof_is_not_a_clients) {
  Raw raw;
  auto frame = raw.honest_hello();
  ASSERT_TRUE(write_exactly(raw.pair.client.get(), frame.data(), 64, soon()).ok());
  Handshake server(Role::server, key_of(1), hello_of(5), "thief", soon());
  server.advance(raw.pair.server.get());
  std::array<std::byte, 96> reply;
  ASSERT_TRUE(read_exactly(raw.pair.client.get(), reply.data(), 96, soon()).ok());
  ASSERT_TRUE(write_exactly(raw.pair.client.get(), &reply[64], 32, soon()).ok());
  EXPECT_EQ(server.advance(raw.pair.server.get()), AuthState::failed);
}

// Every single bit of what the client sends is covered.
TEST(Auth, any_flipped_bit_of_the_clients_words_is_refused) {
  for (size_t bit = 0; bit < 64 * 8; bit += 5) {
    Pair pair = make_pair();
    Pair tap = make_pair();
    Handshake client(Role::client, key_of(1), hello_of(3), "server", soon());
    Handshake server(Role::server, key_of(1), hello_of(5), "client", soon());
    client.advance(tap.client.get());
    std::array<std::byte, 96> frame;
    ASSERT_TRUE(read_exactly(tap.server.get(), frame.data(), 64, soon()).ok());
    frame[bit / 8] ^= std::byte(1 << bit % 8);
    ASSERT_TRUE(write_exactly(pair.client.get(), frame.data(), 64, soon()).ok());
    if (server.advance(pair.server.get()) == AuthState::failed) continue;
    ASSERT_TRUE(read_exactly(pair.client.get(), frame.data(), 96, soon()).ok());
    ASSERT_TRUE(write_exactly(tap.server.get(), frame.data(), 96, soon()).ok());
    EXPECT_EQ(client.advance(tap.client.get()), AuthState::failed) << "bit " << bit;
  }
}

TEST(Auth, garbage_of_every_length_is_refused) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    Pair pair = make_pair();
    std::vector<unsigned char> garbage(random() % 200);
    for (auto& byte : garbage) byte = static_cast<unsigned char>(random());
    if (round % 2 == 1 && garbage.size() > 8) std::memcpy(garbage.data(), "Tutti\0\1\1", 8);
    if (round % 4 == 1 && garbage.size() > 8) std::memcpy(garbage.data(), "Tutt\1\0\1\1", 8);
    (void)write_exactly(pair.client.get(), garbage.data(), garbage.size(), soon());
    pair.client.reset();
    auto result = authenticate(pair.server.get(), Role::server, key_of(1), hello_of(0), soon());
    EXPECT_FALSE(result.ok());
  }
}

}  // namespace
}  // namespace tutti
