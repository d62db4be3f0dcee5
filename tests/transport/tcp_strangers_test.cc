// Who may talk to a tcp transport, and what those who may not can do to it: nothing. Also peers
// that die as processes, addresses that lead nowhere, and descriptors that run out.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "src/base/socket.h"
#include "tests/transport/conformance.h"
#include "transports/tcp/card.h"
#include "transports/tcp/tcp.h"

namespace tutti::conformance {
namespace {

TransportOptions options_for(Rank rank) {
  TransportOptions options;
  options.rank = rank;
  options.ranks = 2;
  options.job = "strangers";
  options.key.assign(32, std::byte{0x11});
  options.interface = "lo";
  options.family = "AF_INET";
  return options;
}

// Two ranks driven by one thread.
struct Pair {
  std::unique_ptr<Transport> a, b;
  Endpoint* to_b = nullptr;
  Endpoint* to_a = nullptr;

  static std::unique_ptr<Transport> make(const TransportOptions& options) {
    auto made = make_tcp_transport(options);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    return std::move(*made);
  }
  explicit Pair(const TransportOptions& of_a = options_for(0),
                const TransportOptions& of_b = options_for(1))
      : a(make(of_a)), b(make(of_b)) {}

  void connect(std::string card_of_b = "") {
    if (card_of_b.empty()) card_of_b = b->card();
    const std::array<std::string, 2> cards{a->card(), card_of_b};
    ASSERT_TRUE(a->connect(cards, Clock::now() + k_patience).ok());
    ASSERT_TRUE(b->connect(cards, Clock::now() + k_patience).ok());
    to_b = *a->open(1, 0, {4096, 2});
    to_a = *b->open(0, 0, {4096, 2});
  }
  template <class F>
  bool drive(F&& condition) {
    const Deadline deadline = Clock::now() + k_patience;
    while (!condition()) {
      (void)a->progress();
      (void)b->progress();
      std::this_thread::yield();
      if (Clock::now() > deadline) return false;
    }
    return true;
  }
  void expect_exchange() {
    const auto payload = make_payload(1, 1000);
    const iovec piece{const_cast<std::byte*>(payload.data()), payload.size()};
    EXPECT_TRUE(drive([&] {
      return to_b->send(1, {&piece, 1}) == Io::done;
    })) << to_b->status().to_string();
    Message message;
    EXPECT_TRUE(drive([&] { return to_a->peek(&message) == Io::done; }))
        << to_a->status().to_string();
  }
  Status failure_of_a() {
    Message message;
    EXPECT_TRUE(drive([&] { return to_b->peek(&message) == Io::failed; })) << "nothing failed";
    return to_b->status();
  }
};

Address address_of(const Transport& transport) {
  return tcp::decode_card(transport.card(), 0)->addresses[0].address;
}
std::string card_at(const std::vector<Address>& addresses) {
  tcp::Card card{"elsewhere", 4711, {}};
  for (const Address& address : addresses) card.addresses.push_back({address, 0});
  return tcp::encode_card(card);
}
Fd listener() { return std::move(*listen_on(*Address::parse("127.0.0.1:0"))); }
// An address where nobody listens.
Address dead_end() {
  const Fd fd = listener();
  return *local_address(fd.get());
}

TEST(TcpStrangers, WrongKeyIsRefusedAndNamed) {
  TransportOptions other = options_for(1);
  other.key.assign(32, std::byte{0x12});
  Pair pair(options_for(0), other);
  pair.connect();
  const Status status = pair.failure_of_a();
  EXPECT_EQ(status.code(), Code::remote_error);
  EXPECT_NE(status.message().find("secret"), std::string::npos) << status.to_string();
  EXPECT_NE(status.message().find("rank 1"), std::string::npos);
  EXPECT_TRUE(pair.b->progress().ok()) << "a stranger at the door is no error";
}

TEST(TcpStrangers, AnotherCommunicatorIsNotMistakenForThisOne) {
  TransportOptions other = options_for(1);
  other.job = "another";
  Pair pair(options_for(0), other);
  pair.connect();
  EXPECT_FALSE(pair.failure_of_a().ok());
  EXPECT_TRUE(pair.b->progress().ok());
}

TEST(TcpStrangers, TwoCommunicatorsOnOneHost) {
  TransportOptions a = options_for(0), b = options_for(1);
  a.job = b.job = "second";
  a.key[0] = b.key[0] = std::byte{7};
  Pair first, second(a, b);
  first.connect();
  second.connect();
  first.expect_exchange();
  second.expect_exchange();
}

TEST(TcpStrangers, GarbageOnThePortDoesNotDisturb) {
  Pair pair;
  std::vector<Fd> strangers;
  for (const size_t bytes : {0, 1, 63, 64, 96, 5000}) {
    auto fd = connect_to(address_of(*pair.b), Clock::now() + k_patience);
    ASSERT_TRUE(fd.ok()) << fd.status().to_string();
    const auto garbage = make_payload(bytes, bytes);
    (void)write_exactly(fd->get(), garbage.data(), bytes, Clock::now() + k_patience);
    if (bytes == 63) (void)::shutdown(fd->get(), SHUT_WR);
    strangers.push_back(std::move(*fd));
  }
  pair.connect();
  pair.expect_exchange();
  EXPECT_TRUE(pair.b->progress().ok());
}

TEST(TcpStrangers, FloodOfConnectionsDoesNotKeepPeersOut) {
  Pair pair;
  std::vector<Fd> strangers;
  for (int i = 0; i < 600; ++i) {
    auto fd = connect_to(address_of(*pair.b), Clock::now() + k_patience);
    ASSERT_TRUE(fd.ok()) << fd.status().to_string();
    strangers.push_back(std::move(*fd));
    (void)pair.b->progress();
  }
  pair.connect();
  pair.expect_exchange();
  // The oldest strangers had to make room.
  char byte;
  EXPECT_EQ(::recv(strangers[0].get(), &byte, 1, MSG_DONTWAIT), 0);
}

// A library of another version, or a machine of the other endianness, in both roles.
TEST(TcpStrangers, OtherVersionAndEndiannessAreNamed) {
  for (const bool endianness : {false, true}) {
    Pair pair;
    const Fd fake = listener();
    pair.connect(card_at({*local_address(fake.get())}));
    std::optional<Accepted> client;
    ASSERT_TRUE(pair.drive([&] {
      auto accepted = try_accept(fake.get());
      if (accepted.ok() && accepted->has_value()) client = std::move(**accepted);
      return client.has_value();
    }));
    std::array<std::byte, 96> hello{};
    ASSERT_TRUE(pair.drive(
        [&] { return ::recv(client->fd.get(), hello.data(), 64, MSG_DONTWAIT | MSG_PEEK) == 64; }));
    (void)::recv(client->fd.get(), hello.data(), 64, 0);
    if (endianness)
      hello[6] ^= std::byte{3};
    else
      hello[4] = std::byte{99};
    const auto altered = hello;
    ASSERT_EQ(::send(client->fd.get(), hello.data(), hello.size(), MSG_NOSIGNAL), 96);
    const Status status = pair.failure_of_a();
    EXPECT_EQ(status.code(), Code::unsupported) << status.to_string();
    EXPECT_NE(status.message().find(endianness ? "endian" : "version 99"), std::string::npos)
        << status.to_string();
    // The same hello at the door of b: an answer that says what b is, and no more.
    auto fd = connect_to(address_of(*pair.b), Clock::now() + k_patience);
    ASSERT_TRUE(fd.ok());
    ASSERT_EQ(::send(fd->get(), altered.data(), 64, MSG_NOSIGNAL), 64);
    std::array<std::byte, 200> answer{};
    EXPECT_TRUE(pair.drive([&] {
      return ::recv(fd->get(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_PEEK) == 96;
    }));
    EXPECT_TRUE(pair.b->progress().ok());
  }
}

TEST(TcpStrangers, OtherAddressesAreTriedFirst) {
  Pair pair;
  pair.connect(card_at({dead_end(), address_of(*pair.b)}));
  pair.expect_exchange();
}

TEST(TcpStrangers, UnreachableAddressIsNamed) {
  TransportOptions impatient = options_for(0);
  impatient.connect_timeout = std::chrono::milliseconds(300);
  // Nobody listens; and a network that documentation reserves (RFC 5737), which drops or refuses.
  for (const Address& address : {dead_end(), *Address::parse("192.0.2.1:9")}) {
    Pair pair(impatient);
    pair.connect(card_at({address}));
    const Status status = pair.failure_of_a();
    EXPECT_NE(status.message().find("rank 0: cannot reach rank 1"), std::string::npos)
        << status.to_string();
    EXPECT_NE(status.message().find(address.to_string()), std::string::npos);
    EXPECT_NE(status.message().find("interface lo"), std::string::npos);
    EXPECT_NE(status.message().find("elsewhere"), std::string::npos);
    EXPECT_FALSE(pair.a->progress().ok());
  }
}

// A rank may leave while a peer, whose side of a greeting is done first, begins a connection for
// questions. The peer has all it needs by then, so that this is no loss, at whatever step it
// happens.
TEST(TcpStrangers, LeavingDuringAGreetingForQuestionsIsNoLoss) {
  for (int steps = 0; steps < 12; ++steps) {
    SCOPED_TRACE(steps);
    Pair pair;
    pair.connect();
    pair.expect_exchange();
    (void)pair.a->peer_call(1);  // the lane has a message that b has not released
    for (int i = 0; i < steps; ++i) (i % 2 == 0 ? pair.a : pair.b)->wait(Clock::duration::zero());
    pair.b->close(Clock::now() + k_patience);
    for (int i = 0; i < 200; ++i) {
      pair.a->wait(std::chrono::microseconds(100));
      const Status status = pair.a->progress();
      ASSERT_TRUE(status.ok()) << status.to_string();
    }
    EXPECT_NE(pair.failure_of_a().message().find("has closed its communicator"), std::string::npos);
  }
}

// --- processes

struct Child {
  pid_t pid = -1;
  Fd pipe;
};

void send_card(int fd, const std::string& card) {
  std::array<char, 257> text{};
  text[0] = static_cast<char>(card.size());
  std::copy(card.begin(), card.end(), text.begin() + 1);
  (void)!::write(fd, text.data(), text.size());
}
std::string read_card(int fd) {
  std::array<char, 257> text{};
  size_t got = 0;
  while (got < text.size()) {
    const ssize_t n = ::read(fd, text.data() + got, text.size() - got);
    if (n <= 0) return "";
    got += static_cast<size_t>(n);
  }
  return std::string(text.data() + 1, static_cast<uint8_t>(text[0]));
}

// Runs rank 1 in a process of its own; `body` gets its connected transport and never returns.
template <class F>
Child spawn_rank_1(F&& body) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return {};
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close(ends[0]);
    auto made = make_tcp_transport(options_for(1));
    send_card(ends[1], (*made)->card());
    const std::array<std::string, 2> cards{read_card(ends[1]), (*made)->card()};
    (void)(*made)->connect(cards, Clock::now() + k_patience);
    body(**made);
    ::_exit(0);
  }
  ::close(ends[1]);
  return {pid, Fd(ends[0])};
}

TEST(TcpProcesses, KilledPeerIsNamedWithHostAndPid) {
  const Child child = spawn_rank_1([](Transport& transport) {
    Endpoint* e = *transport.open(0, 0, {4096, 2});
    while (e->send(1, {}) == Io::again) (void)transport.progress();
    while (true) {
      (void)transport.progress();
      ::usleep(100);
    }
  });
  ASSERT_GT(child.pid, 0);
  auto a = Pair::make(options_for(0));
  send_card(child.pipe.get(), a->card());
  const std::array<std::string, 2> cards{a->card(), read_card(child.pipe.get())};
  ASSERT_TRUE(a->connect(cards, Clock::now() + k_patience).ok());
  Endpoint* e = *a->open(1, 0, {4096, 2});
  Message message;
  ASSERT_EQ(until_settled(*a, [&] { return e->peek(&message); }), Io::done);
  e->release();
  ::kill(child.pid, SIGKILL);
  EXPECT_EQ(until_settled(*a,
                          [&] {
                            a->wait(std::chrono::milliseconds(50));
                            return e->peek(&message);
                          }),
            Io::failed);
  EXPECT_NE(e->status().message().find("rank 1"), std::string::npos) << e->status().to_string();
  EXPECT_NE(e->status().message().find("pid " + std::to_string(child.pid)), std::string::npos)
      << e->status().to_string();
  EXPECT_FALSE(a->progress().ok());
  ::waitpid(child.pid, nullptr, 0);
}

// In a process of its own, because it takes away the descriptors of everybody in it.
TEST(TcpProcesses, RunningOutOfDescriptorsNamesTheLimit) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    Pair pair;
    pair.connect();
    const int lowest_free = ::dup(0);
    ::close(lowest_free);
    const rlimit limit{static_cast<rlim_t>(lowest_free), static_cast<rlim_t>(lowest_free)};
    (void)::setrlimit(RLIMIT_NOFILE, &limit);
    const Status status = pair.failure_of_a();
    (void)!::write(ends[1], status.message().data(), status.message().size());
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string message;
  char buffer[512];
  ssize_t got = 0;
  while ((got = ::read(ends[0], buffer, sizeof buffer)) > 0) message.append(buffer, got);
  ::close(ends[0]);
  ::waitpid(pid, nullptr, 0);
  EXPECT_NE(message.find("RLIMIT_NOFILE"), std::string::npos) << message;
  EXPECT_NE(message.find("may open"), std::string::npos) << message;
}

}  // namespace
}  // namespace tutti::conformance
