// Mutual authentication of a connection: two ends prove to each other that they know a secret.
//
//   client                                   server
//     hello (64 B) ------------------------->  checks magic, version, endianness, formats
//     <----------- hello (64 B) + proof (32 B)
//     proof (32 B) ------------------------->  both are done; data may follow at once
//
// proof = HMAC-SHA256(key of the purpose, role | client's hello | server's hello). Both hellos
// carry fresh nonces and the role is part of the text, so a proof can be neither replayed nor
// reflected. The version of the protocol, endianness and plan format are compared before any proof,
// so that builds that do not fit can be told apart from strangers; a side that refuses sends a zero
// proof. Nothing of variable length is ever read here. The connection is authenticated, not
// encrypted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "src/base/socket.h"
#include "tutti/status.h"

namespace tutti {

inline constexpr uint16_t k_wire_version = 1;

using Key = std::array<std::byte, 32>;
using Mac = std::array<std::byte, 32>;

// HMAC-SHA256 over the concatenation of `parts`; the key may have any length (RFC 2104).
Mac hmac_sha256(std::span<const std::byte> key,
                std::initializer_list<std::span<const std::byte>> parts);
bool equal_in_constant_time(const Mac& a, const Mac& b);
// A key for one use of a secret: HMAC(secret, "tutti key" | label). Labels must differ per use.
Key derive_key(std::span<const std::byte> secret, std::string_view label);
void fill_random(std::span<std::byte> bytes);  // getrandom

// What a connection is for. A hello with another purpose than the listener's is refused.
enum class Purpose : uint8_t { bootstrap = 1, tcp = 2, shm = 3, launch = 4 };

struct Hello {
  Purpose purpose = Purpose::bootstrap;
  uint32_t rank = 0;
  uint32_t plan_format = 0;          // must agree; 0 where plans play no part
  std::array<std::byte, 24> data{};  // the caller's: lane, connection number, ...
};

enum class Role : uint8_t { client, server };
enum class AuthState : uint8_t { working, done, failed };

// The handshake as a state machine on a non-blocking descriptor, which the caller owns and polls.
class Handshake {
 public:
  // `peer` is how errors name the other end: "10.0.0.2:4711" or "rank 3 (10.0.0.2:4711)".
  Handshake(Role role, const Key& key, const Hello& mine, std::string peer,
            SocketDeadline deadline);

  // Moves as far as the descriptor allows; call when it is ready for events() or the deadline has
  // passed. Never blocks.
  AuthState advance(int fd);
  short events() const;  // POLLIN or POLLOUT
  SocketDeadline deadline() const { return deadline_; }

  // Valid once done.
  const Hello& peer_hello() const { return theirs_; }
  // A key that only the two ends of this very connection know (fresh nonces went in).
  Key session_key() const;
  // Why it failed. remote_error: wrong secret, not tutti, closed; unsupported: other version,
  // endianness or plan format (both are named); timeout: too slow.
  const Status& status() const { return status_; }

 private:
  static constexpr size_t k_hello = 64;
  using HelloFrame = std::array<std::byte, k_hello>;
  enum class Step : uint8_t {
    send_hello,
    read_hello,
    send_reply,
    read_reply,
    send_proof,
    read_proof,
    finished
  };

  HelloFrame encode(const Hello& hello) const;
  Status check_frame(const HelloFrame& frame, Hello* hello) const;
  Mac proof_of(Role prover) const;
  bool transfer(int fd);  // true when the bytes of this step have moved
  void next();            // what follows a step
  void begin(Step step, size_t bytes);
  void on_client_hello();
  void on_server_reply();
  void on_client_proof();
  void fail(Status status);

  Role role_;
  Step step_ = Step::send_hello;
  Key key_;
  Key proof_key_;
  Hello mine_;
  Hello theirs_;
  HelloFrame client_hello_{};
  HelloFrame server_hello_{};
  std::array<std::byte, k_hello + sizeof(Mac)> buffer_{};
  size_t moved_ = 0;
  size_t goal_ = 0;
  Status refusal_;  // set when the zero proof still has to be sent before failing
  std::string peer_;
  SocketDeadline deadline_;
  Status status_;
};

struct Authenticated {
  Hello peer;
  Key session_key;
};

// The blocking form.
Result<Authenticated> authenticate(int fd, Role role, const Key& key, const Hello& mine,
                                   SocketDeadline deadline);

}  // namespace tutti
