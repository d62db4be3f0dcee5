// shm: the conformance suite between threads, and what only real processes can show: deaths, limits
// and filters of the operating system, strangers on the socket.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>

#include "tests/transport/conformance.h"
#include "transports/shm/host.h"
#include "transports/shm/link.h"
#include "transports/shm/shm_transport.h"
#include "tutti/communicator.h"

namespace tutti::conformance {
namespace {

TransportFactory factory(bool process_vm = true) {
  return {process_vm ? "shm" : "shm_without_process_vm", make_shm_transport,
          [=](TransportOptions& o) { o.process_vm = process_vm; }, true};
}

INSTANTIATE_TEST_SUITE_P(shm, TransportConformance, testing::Values(factory(), factory(false)),
                         TransportFactory::test_name);

// What the processes of one test share besides a transport.
struct Board {
  std::atomic<uint32_t> arrived;
  std::atomic<uint32_t> card_bytes[8];
  char cards[8][256];
  std::atomic<uint64_t> notes[8];

  void barrier(uint32_t ranks) {
    const uint32_t turn = arrived.fetch_add(1) / ranks;
    const Deadline deadline = Clock::now() + k_patience;
    while (arrived.load() < ranks * (turn + 1) && Clock::now() < deadline) ::usleep(200);
  }
};

class ShmProcesses : public testing::Test {
 protected:
  ShmProcesses()
      : board_(*static_cast<Board*>(::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                                           MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~ShmProcesses() override { ::munmap(&board_, sizeof board_); }

  // Runs `body` in `ranks` processes; what it reports must be "" (its process's exit status tells).
  using Body = std::function<std::string(Node&)>;
  void run(uint32_t ranks, const Body& body, const TransportFactory& how = factory()) {
    std::vector<pid_t> children;
    for (Rank rank = 0; rank < ranks; ++rank) {
      const pid_t child = ::fork();
      ASSERT_GE(child, 0);
      if (child == 0) ::_exit(child_main(rank, ranks, body, how));
      children.push_back(child);
    }
    for (Rank rank = 0; rank < ranks; ++rank) {
      int status = -1;
      ASSERT_EQ(::waitpid(children[rank], &status, 0), children[rank]);
      if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) continue;  // meant to die
      EXPECT_TRUE(WIFEXITED(status)) << "rank " << rank << ": signal " << WTERMSIG(status);
      EXPECT_EQ(WEXITSTATUS(status), 0) << "rank " << rank << ": see above";
    }
  }

  int child_main(Rank rank, uint32_t ranks, const Body& body, const TransportFactory& how) {
    ::alarm(60);
    Node node{rank, ranks, nullptr, nullptr};
    auto made = how.make(options_of(how, rank, ranks));
    if (!made) return complain(rank, made.status().to_string());
    node.transport = std::move(*made);
    const std::string card = node.transport->card();
    std::memcpy(board_.cards[rank], card.data(), card.size());
    board_.card_bytes[rank] = static_cast<uint32_t>(card.size());
    board_.barrier(ranks);
    std::vector<std::string> cards;
    for (Rank r = 0; r < ranks; ++r) cards.emplace_back(board_.cards[r], board_.card_bytes[r]);
    if (Status s = node.transport->connect(cards, Clock::now() + k_patience); !s.ok()) {
      return complain(rank, s.to_string());
    }
    const std::string wrong = body(node);
    if (node.transport) node.transport->close(Clock::now() + std::chrono::seconds(5));
    if (testing::Test::HasFailure()) return 1;
    return wrong.empty() ? 0 : complain(rank, wrong);
  }
  int complain(Rank rank, const std::string& what) {
    std::fprintf(stderr, "rank %u: %s\n", rank, what.c_str());
    return 1;
  }

  Board& board_;
};

TEST_F(ShmProcesses, TalkAndReadEachOthersMemory) {
  run(4, [&](Node& node) -> std::string {
    std::vector<std::byte> mine = make_payload(node.rank, 3 << 20);
    board_.notes[node.rank] = reinterpret_cast<uint64_t>(mine.data());
    board_.barrier(node.ranks);
    for (Rank p = 0; p < node.ranks; ++p) {
      if (p == node.rank) continue;
      Endpoint* e = node.open(p, 0, {70000, 2});
      if (node.send(*e, 1, make_payload(node.rank, 70000)) != Io::done) return "send failed";
    }
    for (Rank p = 0; p < node.ranks; ++p) {
      if (p != node.rank) node.expect(*node.open(p, 0, {70000, 2}), 1, p, 70000);
    }
    const Rank next = (node.rank + 1) % node.ranks;
    if (node.transport->capabilities().remote_memory) {
      std::vector<std::byte> got(3 << 20);
      Status s = node.transport->remote_read(next, board_.notes[next], got);
      if (!s.ok()) return s.to_string();
      if (got != make_payload(next, 3 << 20)) return "remote_read read something else";
      s = node.transport->remote_read(next, 64, got);
      if (s.ok() || s.message().find("rank") == std::string::npos) return "address 64 was readable";
    }
    board_.barrier(node.ranks);
    return "";
  });
}

TEST_F(ShmProcesses, KilledPeerIsNamedWithItsPid) {
  run(3, [&](Node& node) -> std::string {
    Endpoint* e = node.rank == 1 ? nullptr : node.open(1);
    if (node.rank == 1) {
      board_.notes[1] = static_cast<uint64_t>(::getpid());
      for (const Rank p : {0u, 2u}) (void)node.send(*node.open(p), 5, make_payload(5, 1000));
      board_.barrier(3);
      ::kill(::getpid(), SIGKILL);
    }
    board_.barrier(3);
    node.expect(*e, 5, 5, 1000);
    Message message;
    if (until_settled(*node.transport, [&] { return e->peek(&message); }) != Io::failed) {
      return "peek did not fail";
    }
    const std::string pid = "pid " + std::to_string(board_.notes[1].load());
    for (const Status& s : {e->status(), node.transport->progress()}) {
      if (s.message().find("rank 1") == std::string::npos) return "not named: " + s.to_string();
      if (s.message().find(pid) == std::string::npos) return "no pid: " + s.to_string();
    }
    return "";
  });
}

// A child that the peer forked holds copies of its sockets; the death must show all the same.
TEST_F(ShmProcesses, DeathShowsEvenIfAForkedChildLives) {
  run(2, [&](Node& node) -> std::string {
    if (node.rank == 1) {
      const pid_t grandchild = ::fork();
      if (grandchild == 0) {
        const Status s = node.transport->open(0, 77, {64, 1}).status();
        board_.notes[0] = s.code() == Code::invalid_usage ? 1 : 2;
        ::usleep(30'000'000);
        ::_exit(0);
      }
      board_.notes[1] = static_cast<uint64_t>(grandchild);
      while (board_.notes[0] == 0) ::usleep(100);
      board_.barrier(2);
      ::kill(::getpid(), SIGKILL);
    }
    board_.barrier(2);
    const bool seen = until(*node.transport, [&] { return !node.transport->progress().ok(); });
    ::kill(static_cast<pid_t>(board_.notes[1].load()), SIGKILL);
    if (board_.notes[0] != 1) return "the forked child could open an endpoint";
    return seen ? "" : "the death did not show";
  });
}

TEST_F(ShmProcesses, ExitWithoutCloseIsNamed) {
  run(2, [&](Node& node) -> std::string {
    if (node.rank == 1) ::_exit(0);
    if (!until(*node.transport, [&] { return !node.transport->progress().ok(); })) return "unseen";
    const Status s = node.transport->progress();
    return s.message().find("rank 1") != std::string::npos ? "" : s.to_string();
  });
}

TEST_F(ShmProcesses, SegmentsAreMappedAndLetGo) {
  run(3, [&](Node& node) -> std::string {
    const size_t bytes = 3 << 20;
    const Rank next = (node.rank + 1) % 3, previous = (node.rank + 2) % 3;
    for (uint64_t call = 1; call <= 3; ++call) {
      auto* mine = static_cast<uint64_t*>(mem_alloc(bytes));
      mine[1000] = call * 10 + node.rank;
      auto ref = node.transport->describe(mine + 1000, 16);
      if (!ref.ok()) return ref.status().to_string();
      if (ref->segment == 0 || ref->offset != 8000) return "not described as a segment";
      board_.notes[node.rank] = ref->segment;
      board_.barrier(3);
      const MemoryRef theirs{board_.notes[next], 8000};
      auto mapped = node.transport->map(next, theirs, 16);
      if (!mapped.ok() || *mapped == nullptr) return "not mapped: " + mapped.status().to_string();
      if (*static_cast<uint64_t*>(*mapped) != call * 10 + next) return "shows something else";
      static_cast<uint64_t*>(*mapped)[1] = node.rank + 100;
      if (*node.transport->map(next, theirs, 16) != *mapped) return "mapped twice";
      if (node.transport->map(next, {theirs.segment, bytes - 8}, 16).ok()) return "past the end";
      board_.barrier(3);
      if (mine[1001] != previous + 100) return "the peer's store did not show";
      // As a message: read where it lies.
      Endpoint* out = node.open(previous);
      for (size_t i = 0; i < 100; ++i) mine[i] = i * call;
      if (node.transport->capabilities().pull) {
        if (until_settled(*node.transport, [&] { return out->send_ref(1, mine, 800); }) !=
            Io::done) {
          return out->status().to_string();
        }
        Endpoint* in = node.open(next);
        Message message;
        if (until_settled(*node.transport, [&] { return in->peek(&message); }) != Io::done) {
          return in->status().to_string();
        }
        if (message.data == nullptr) return "a segment should be addressable";
        uint64_t last = 0;
        std::memcpy(&last, message.data + 99 * 8, 8);
        if (last != 99 * call) return "send_ref showed something else";
        in->release();
        (void)until(*node.transport, [&] { return out->consumed() == out->sent(); });
      }
      board_.barrier(3);
      if (!mem_free(mine).ok()) return "mem_free failed";
      node.transport->announce({.sequence = call});  // the owner tells
      board_.barrier(3);
      for (int i = 0; i < 200; ++i) {
        (void)node.transport->progress();
        ::usleep(50);
      }
      node.transport->announce({.sequence = call, .finished = 1});  // the peers let go
      board_.barrier(3);
      if (node.transport->map(next, theirs, 16).ok()) return "still mapped after mem_free";
    }
    return "";
  });
}

// seccomp as container runtimes set it up: process_vm_readv says EPERM. One rank that is refused
// turns it off for all, and everything else works.
bool refuse_process_vm() {
  constexpr auto nr = static_cast<uint32_t>(offsetof(seccomp_data, nr));
  sock_filter code[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, nr},
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_process_vm_readv},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_process_vm_writev},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST_F(ShmProcesses, SeccompOnOneRankTurnsProcessVmOffForAll) {
  auto how = factory();
  how.tweak = [](TransportOptions& o) {
    const bool refused = o.rank != 2 || refuse_process_vm();
    EXPECT_TRUE(refused);
  };
  run(
      3,
      [&](Node& node) -> std::string {
        const Capabilities c = node.transport->capabilities();
        if (c.remote_memory || c.pull) return "still claims process_vm";
        const Rank next = (node.rank + 1) % 3, previous = (node.rank + 2) % 3;
        Endpoint* e = node.open(next);
        std::array<std::byte, 100> memory{};
        if (e->send_ref(1, memory.data(), memory.size()) != Io::failed) return "send_ref went";
        Endpoint* other = node.open(next, 1);
        if (node.send(*other, 1, make_payload(1, 3000)) != Io::done) return "send failed";
        node.expect(*node.open(previous, 1), 1, 1, 3000);
        return "";
      },
      how);
}

TEST_F(ShmProcesses, FileSizeLimitIsAnErrorThatNamesTheSize) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit limit{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto made = make_shm_transport(options_of(factory(), 3, 4));
    const bool good = !made.ok() && made.status().code() == Code::system_error &&
                      made.status().message().find("rank 3") != std::string::npos &&
                      made.status().message().find("bytes") != std::string::npos;
    ::_exit(good ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// Memory that runs out later, when slots are made, fails the send and says why.
TEST_F(ShmProcesses, SlotsThatCannotBeReservedFailTheSend) {
  run(2, [&](Node& node) -> std::string {
    if (node.rank == 1) {
      board_.barrier(2);
      return "";
    }
    const rlimit limit{2 << 20, 2 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    Endpoint* e = node.open(1, 0, {4 << 20, 4});
    const auto payload = make_payload(0, 1 << 20);
    const iovec piece{const_cast<std::byte*>(payload.data()), payload.size()};
    const Io io = e->send(1, {&piece, 1});
    board_.barrier(2);
    if (io != Io::failed) return "send did not fail";
    return e->status().message().find("ulimit -f") != std::string::npos ? ""
                                                                        : e->status().to_string();
  });
}

// --- connecting: strangers, keys, hosts

struct Pair {
  std::unique_ptr<Transport> transport[2];
  Status status[2];
  void connect(std::chrono::milliseconds patience) {
    const std::array<std::string, 2> cards{transport[0]->card(), transport[1]->card()};
    std::thread other([&] { status[1] = transport[1]->connect(cards, Clock::now() + patience); });
    status[0] = transport[0]->connect(cards, Clock::now() + patience);
    other.join();
  }
};

Pair make_pair(const std::function<void(TransportOptions&)>& tweak) {
  Pair pair;
  for (Rank r = 0; r < 2; ++r) {
    auto options = options_of(factory(), r, 2);
    tweak(options);
    auto made = make_shm_transport(options);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    pair.transport[r] = std::move(*made);
  }
  return pair;
}

TEST(ShmConnect, WrongKeyIsAnErrorThatNamesTheRank) {
  Pair pair = make_pair([](TransportOptions& o) { o.key.assign(32, std::byte(o.rank)); });
  pair.connect(std::chrono::milliseconds(500));
  ASSERT_FALSE(pair.status[1].ok());
  EXPECT_NE(pair.status[1].message().find("rank 0"), std::string::npos)
      << pair.status[1].to_string();
  EXPECT_FALSE(pair.transport[0]->reaches(1));
  EXPECT_FALSE(pair.transport[0]->why_not(1).empty());
}

TEST(ShmConnect, KeyMustHave32Bytes) {
  auto options = options_of(factory(), 0, 2);
  options.key.resize(16);
  EXPECT_EQ(make_shm_transport(options).status().code(), Code::invalid_argument);
}

TEST(ShmConnect, DifferentHostIdFallsBackOnBothEnds) {
  for (const size_t length : {size_t{1}, size_t{200}}) {
    Pair pair = make_pair([=](TransportOptions& o) {
      o.host_id = std::string(length, 'h') + std::to_string(o.rank);
    });
    pair.connect(std::chrono::seconds(20));
    for (Rank r = 0; r < 2; ++r) {
      EXPECT_TRUE(pair.status[r].ok()) << pair.status[r].to_string();
      EXPECT_FALSE(pair.transport[r]->reaches(1 - r));
      EXPECT_NE(pair.transport[r]->why_not(1 - r).find("host id"), std::string::npos);
    }
  }
}

TEST(ShmConnect, MissingAndForeignCardsFallBack) {
  auto made = make_shm_transport(options_of(factory(), 0, 4));
  ASSERT_TRUE(made.ok());
  std::string newer = (*made)->card();
  newer[8] = 99;  // another wire version
  const std::array<std::string, 4> cards{(*made)->card(), std::string(), "garbage", newer};
  ASSERT_TRUE((*made)->connect(cards, Clock::now() + k_patience).ok());
  for (Rank r = 1; r < 4; ++r) {
    EXPECT_FALSE((*made)->reaches(r));
    EXPECT_FALSE((*made)->why_not(r).empty());
  }
}

TEST(ShmConnect, NobodyComesFallsBackWithAReason) {
  Pair pair = make_pair([](TransportOptions&) {});
  const std::array<std::string, 2> cards{pair.transport[0]->card(), pair.transport[1]->card()};
  ASSERT_TRUE(pair.transport[0]->connect(cards, Clock::now() + std::chrono::milliseconds(50)).ok());
  EXPECT_FALSE(pair.transport[0]->reaches(1));
  EXPECT_NE(pair.transport[0]->why_not(1).find("in time"), std::string::npos);
  // The late one finds the door closed and falls back too.
  ASSERT_TRUE(pair.transport[1]->connect(cards, Clock::now() + std::chrono::seconds(5)).ok());
  EXPECT_FALSE(pair.transport[1]->reaches(0));
  EXPECT_FALSE(pair.transport[1]->why_not(0).empty());
}

Fd knock(const std::string& card) {
  Fd socket;
  int error = 0;
  EXPECT_EQ(shm::connect_abstract(shm::decode(card)->socket.data(), &socket, &error), Io::done);
  return socket;
}

TEST(ShmConnect, GarbageOnTheSocketDisturbsNobody) {
  Pair pair = make_pair([](TransportOptions&) {});
  const std::string card = pair.transport[0]->card();
  std::vector<Fd> strangers;
  for (int i = 0; i < 20; ++i) {
    strangers.push_back(knock(card));
    const std::vector<char> noise(static_cast<size_t>(i) * 37, static_cast<char>(i * 11));
    (void)!::send(strangers.back().get(), noise.data(), noise.size(), MSG_NOSIGNAL);
    if (i % 3 == 0) strangers.back().reset();  // some leave at once
  }
  pair.connect(std::chrono::seconds(20));
  for (Rank r = 0; r < 2; ++r) {
    EXPECT_TRUE(pair.status[r].ok()) << pair.status[r].to_string();
    EXPECT_TRUE(pair.transport[r]->reaches(1 - r)) << pair.transport[r]->why_not(1 - r);
  }
}

TEST(ShmConnect, DescriptorsAreCloseOnExecAndReturned) {
  auto open_descriptors = [] {
    std::vector<int> found;
    for (int fd = 0; fd < 512; ++fd) {
      if (::fcntl(fd, F_GETFD) >= 0) found.push_back(fd);
    }
    return found;
  };
  const auto before = open_descriptors();
  {
    Pair pair = make_pair([](TransportOptions&) {});
    pair.connect(std::chrono::seconds(20));
    for (const int fd : open_descriptors()) {
      if (std::find(before.begin(), before.end(), fd) != before.end()) continue;
      EXPECT_TRUE(::fcntl(fd, F_GETFD) & FD_CLOEXEC) << fd;
    }
  }
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace tutti::conformance
