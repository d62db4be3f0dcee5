// The handshake's frames and states; see auth.h.
#include "src/base/auth.h"

#include <sodium.h>
#include <sys/random.h>

#include <bit>
#include <cstring>

namespace tutti {
namespace {

// Frame: [0,4) magic [4,6) wire version [6] endianness [7] purpose [8,12) rank [12,16) plan format
// [16,40) nonce [40,64) caller's data. Integers are little endian. The first 8 bytes keep their
// meaning in every version to come.
constexpr std::array<char, 4> k_magic = {'T', 'u', 't', 'i'};
constexpr size_t k_nonce_at = 16;
constexpr size_t k_nonce = 24;
constexpr size_t k_data_at = 40;
constexpr std::byte k_endianness{std::endian::native == std::endian::little ? 1 : 2};

void put(std::byte* at, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) at[i] = std::byte(value >> (8 * i) & 0xff);
}
uint32_t get(const std::byte* at, int bytes) {
  uint32_t value = 0;
  for (int i = 0; i < bytes; ++i) value |= std::to_integer<uint32_t>(at[i]) << (8 * i);
  return value;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// libsodium wants no null pointers, not even for nothing.
const unsigned char* raw(std::span<const std::byte> bytes) {
  static constexpr unsigned char k_nothing = 0;
  return bytes.empty() ? &k_nothing : reinterpret_cast<const unsigned char*>(bytes.data());
}

const char* endianness_name(std::byte mark) {
  return mark == std::byte{1} ? "little endian" : mark == std::byte{2} ? "big endian" : "unknown";
}

}  // namespace

Mac hmac_sha256(std::span<const std::byte> key,
                std::initializer_list<std::span<const std::byte>> parts) {
  crypto_auth_hmacsha256_state state;
  crypto_auth_hmacsha256_init(&state, raw(key), key.size());
  for (std::span<const std::byte> part : parts) {
    crypto_auth_hmacsha256_update(&state, raw(part), part.size());
  }
  Mac mac;
  crypto_auth_hmacsha256_final(&state, reinterpret_cast<unsigned char*>(mac.data()));
  sodium_memzero(&state, sizeof state);
  return mac;
}

bool equal_in_constant_time(const Mac& a, const Mac& b) {
  return sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

Key derive_key(std::span<const std::byte> secret, std::string_view label) {
  return hmac_sha256(secret, {bytes_of("tutti key "), bytes_of(label)});
}

void fill_random(std::span<std::byte> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    ssize_t got = ::getrandom(bytes.data() + done, bytes.size() - done, 0);
    if (got > 0) done += static_cast<size_t>(got);
  }
}

Handshake::Handshake(Role role, const Key& key, const Hello& mine, std::string peer,
                     SocketDeadline deadline)
    : role_(role),
      key_(key),
      proof_key_(derive_key(key, "proof " + std::to_string(static_cast<unsigned>(mine.purpose)))),
      mine_(mine),
      peer_(std::move(peer)),
      deadline_(deadline) {
  HelloFrame frame = encode(mine_);
  if (role_ == Role::client) {
    client_hello_ = frame;
    std::memcpy(buffer_.data(), frame.data(), frame.size());
    begin(Step::send_hello, k_hello);
  } else {
    server_hello_ = frame;
    begin(Step::read_hello, k_hello);
  }
}

Handshake::HelloFrame Handshake::encode(const Hello& hello) const {
  HelloFrame frame{};
  std::memcpy(frame.data(), k_magic.data(), k_magic.size());
  put(&frame[4], k_wire_version, 2);
  frame[6] = k_endianness;
  frame[7] = std::byte(hello.purpose);
  put(&frame[8], hello.rank, 4);
  put(&frame[12], hello.plan_format, 4);
  fill_random(std::span(frame).subspan(k_nonce_at, k_nonce));
  std::memcpy(&frame[k_data_at], hello.data.data(), hello.data.size());
  return frame;
}

// What can be told without a secret. The purpose is compared last: it is the caller's own mistake.
Status Handshake::check_frame(const HelloFrame& frame, Hello* hello) const {
  if (std::memcmp(frame.data(), k_magic.data(), k_magic.size()) != 0) {
    return Status(Code::remote_error, peer_ + " does not speak tutti");
  }
  uint32_t version = get(&frame[4], 2);
  if (version != k_wire_version) {
    return Status(Code::unsupported, peer_ + " speaks wire version " + std::to_string(version) +
                                         ", this library version " +
                                         std::to_string(k_wire_version));
  }
  if (frame[6] != k_endianness) {
    return Status(Code::unsupported, peer_ + " is " + endianness_name(frame[6]) +
                                         ", this machine " + endianness_name(k_endianness));
  }
  hello->purpose = static_cast<Purpose>(frame[7]);
  hello->rank = get(&frame[8], 4);
  hello->plan_format = get(&frame[12], 4);
  std::memcpy(hello->data.data(), &frame[k_data_at], hello->data.size());
  if (hello->plan_format != mine_.plan_format) {
    return Status(Code::unsupported,
                  peer_ + " has plan format " + std::to_string(hello->plan_format) +
                      ", this library format " + std::to_string(mine_.plan_format));
  }
  if (hello->purpose != mine_.purpose) {
    return Status(Code::remote_error, peer_ + " wants a connection of kind " +
                                          std::to_string(static_cast<unsigned>(hello->purpose)) +
                                          ", here is kind " +
                                          std::to_string(static_cast<unsigned>(mine_.purpose)));
  }
  return Status();
}

Mac Handshake::proof_of(Role prover) const {
  return hmac_sha256(proof_key_, {bytes_of(prover == Role::client ? "client" : "server"),
                                  client_hello_, server_hello_});
}

Key Handshake::session_key() const {
  return hmac_sha256(key_, {bytes_of("tutti session "), client_hello_, server_hello_});
}

short Handshake::events() const {
  bool sends = step_ == Step::send_hello || step_ == Step::send_reply || step_ == Step::send_proof;
  return sends ? POLLOUT : POLLIN;
}

void Handshake::begin(Step step, size_t bytes) {
  step_ = step;
  moved_ = 0;
  goal_ = bytes;
}

void Handshake::fail(Status status) {
  status_ = std::move(status);
  step_ = Step::finished;
}

bool Handshake::transfer(int fd) {
  bool sends = events() == POLLOUT;
  Result<size_t> moved = sends ? write_some(fd, &buffer_[moved_], goal_ - moved_)
                               : read_some(fd, &buffer_[moved_], goal_ - moved_);
  if (!moved.ok()) {
    Status why = refusal_.ok() ? moved.status() : refusal_;
    bool closed = refusal_.ok() && why.code() == Code::remote_error;
    fail(closed ? Status(Code::remote_error, peer_ + " closed the connection during the handshake")
                : why);
    return false;
  }
  moved_ += *moved;
  return moved_ == goal_;
}

AuthState Handshake::advance(int fd) {
  while (step_ != Step::finished && transfer(fd)) next();
  if (step_ != Step::finished && SocketClock::now() >= deadline_) {
    fail(Status(Code::timeout, peer_ + " is too slow: no complete handshake in time"));
  }
  if (step_ != Step::finished) return AuthState::working;
  return status_.ok() ? AuthState::done : AuthState::failed;
}

void Handshake::next() {
  switch (step_) {
    case Step::send_hello:
      return begin(Step::read_reply, k_hello + sizeof(Mac));
    case Step::read_hello:
      return on_client_hello();
    case Step::send_reply:
      if (!refusal_.ok()) return fail(refusal_);
      return begin(Step::read_proof, sizeof(Mac));
    case Step::read_reply:
      return on_server_reply();
    case Step::send_proof:
      if (!refusal_.ok()) return fail(refusal_);
      return begin(Step::finished, 0);
    case Step::read_proof:
      return on_client_proof();
    case Step::finished:
      return;
  }
}

void Handshake::on_client_hello() {
  std::memcpy(client_hello_.data(), buffer_.data(), k_hello);
  Status fits = check_frame(client_hello_, &theirs_);
  // A stranger gets no answer. A tutti that does not fit learns why from our hello.
  if (std::memcmp(client_hello_.data(), k_magic.data(), k_magic.size()) != 0) return fail(fits);
  refusal_ = fits;
  Mac proof = fits.ok() ? proof_of(Role::server) : Mac{};
  std::memcpy(buffer_.data(), server_hello_.data(), k_hello);
  std::memcpy(&buffer_[k_hello], proof.data(), proof.size());
  begin(Step::send_reply, k_hello + sizeof(Mac));
}

void Handshake::on_server_reply() {
  std::memcpy(server_hello_.data(), buffer_.data(), k_hello);
  Status fits = check_frame(server_hello_, &theirs_);
  if (!fits.ok()) return fail(fits);
  Mac proof;
  std::memcpy(proof.data(), &buffer_[k_hello], proof.size());
  bool trusted = equal_in_constant_time(proof, proof_of(Role::server));
  if (!trusted) {
    refusal_ = Status(Code::remote_error, peer_ + " has another secret (wrong unique id?)");
  }
  Mac answer = trusted ? proof_of(Role::client) : Mac{};
  std::memcpy(buffer_.data(), answer.data(), answer.size());
  begin(Step::send_proof, sizeof(Mac));
}

void Handshake::on_client_proof() {
  Mac proof;
  std::memcpy(proof.data(), buffer_.data(), proof.size());
  if (!equal_in_constant_time(proof, proof_of(Role::client))) {
    return fail(Status(Code::remote_error, peer_ + " has another secret (wrong unique id?)"));
  }
  begin(Step::finished, 0);
}

Result<Authenticated> authenticate(int fd, Role role, const Key& key, const Hello& mine,
                                   SocketDeadline deadline) {
  Handshake handshake(role, key, mine, peer_name(fd), deadline);
  for (;;) {
    AuthState state = handshake.advance(fd);
    if (state == AuthState::done) {
      return Authenticated{handshake.peer_hello(), handshake.session_key()};
    }
    if (state == AuthState::failed) return handshake.status();
    Status ready = wait_for(fd, handshake.events(), deadline);
    if (!ready.ok() && ready.code() != Code::timeout) return ready;
  }
}

}  // namespace tutti
