// Cards: boot id, network namespace and host id decide whether two ranks try to share memory.
#include "transports/shm/host.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "src/base/auth.h"
#include "src/base/fd.h"
#include "src/base/socket.h"

namespace tutti::shm {
namespace {

template <size_t n>
void copy_text(std::array<char, n>& dst, const std::string& text) {
  dst.fill(0);
  std::copy_n(text.begin(), std::min(text.size(), n - 1), dst.begin());
}

template <size_t n>
std::string text_of(const std::array<char, n>& bytes) {
  return {bytes.data(), ::strnlen(bytes.data(), n)};
}

std::string hex(std::span<const std::byte> bytes) {
  static constexpr char k_digits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte b : bytes) {
    text += k_digits[static_cast<unsigned>(b) >> 4];
    text += k_digits[static_cast<unsigned>(b) & 15];
  }
  return text;
}

std::string boot_id() {
  const Fd fd(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char text[40] = {};
  const ssize_t n = fd ? ::read(fd.get(), text, sizeof text - 1) : -1;
  return n > 0 ? std::string(text, ::strcspn(text, "\n")) : std::string();
}

}  // namespace

Result<Card> make_card(const std::string& host_id) {
  Card card;
  card.pid = static_cast<uint32_t>(::getpid());
  copy_text(card.boot_id, boot_id());
  struct stat netns {};
  if (::stat("/proc/self/ns/net", &netns) == 0) {
    card.netns_device = netns.st_dev;
    card.netns_inode = netns.st_ino;
  }
  if (card.boot_id[0] == 0 || card.netns_inode == 0) {
    return Status(Code::unsupported, "shm needs /proc (boot id and network namespace)");
  }
  if (host_id.size() < card.host_id.size()) {
    copy_text(card.host_id, host_id);
  } else {
    static constexpr char k_label[] = "tutti host id";
    const Mac digest =
        hmac_sha256(std::as_bytes(std::span(k_label)), {std::as_bytes(std::span(host_id))});
    copy_text(card.host_id, hex(std::span(digest).first(20)));
  }
  char hostname[256] = {};
  ::gethostname(hostname, sizeof hostname - 1);
  copy_text(card.hostname, hostname);
  // 124 random bits: nobody who cannot read /proc/net/unix guesses it, and who can read it still
  // has to prove that it holds the key.
  std::array<std::byte, 15> random{};
  fill_random(random);
  copy_text(card.socket, hex(random));
  return card;
}

std::string encode(const Card& card) { return {reinterpret_cast<const char*>(&card), sizeof card}; }

std::optional<Card> decode(const std::string& bytes) {
  Card card;
  const Card expected;
  if (bytes.size() != sizeof card) return {};
  std::memcpy(static_cast<void*>(&card), bytes.data(), sizeof card);
  if (card.magic != expected.magic || card.wire_version != expected.wire_version) return {};
  card.hostname.back() = card.socket.back() = 0;
  return card;
}

std::string difference(const Card& a, const Card& b) {
  if (a.host_id != b.host_id) {
    return "different host id (" + text_of(a.host_id) + ", " + text_of(b.host_id) + ")";
  }
  if (a.boot_id != b.boot_id) return "different host (boot id)";
  if (a.netns_inode != b.netns_inode || a.netns_device != b.netns_device) {
    return "different network namespace";
  }
  return {};
}

}  // namespace tutti::shm
