// What goes wrong while joining: everybody who can know it learns the culprit, in bounded time.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <mutex>
#include <random>

#include "src/communicator/bootstrap/root_service.h"
#include "tests/bootstrap/harness.h"

namespace tutti {
namespace {

using std::chrono::milliseconds;

Address root_of(const UniqueId& id) { return unpack(decode_id(id)->root).value(); }

// Statuses of ranks that try to join together.
std::vector<Status> join_all(const UniqueId& id, const std::vector<BootstrapOptions>& options) {
  std::vector<Status> statuses(options.size());
  on_ranks(static_cast<uint32_t>(options.size()), [&](Rank thread) {
    Joined joined = Bootstrap::join(id, options[thread]);
    statuses[thread] = joined.status();
  });
  return statuses;
}

TEST(JoinErrors, missing_ranks_are_listed_by_everybody_who_came) {
  std::vector<BootstrapOptions> some;
  for (Rank rank : {0, 1, 3, 4, 6, 7, 8, 9, 10, 11, 12}) some.push_back(rank_of(rank, 13, 1));
  for (const Status& status : join_all(loopback_id(), some)) {
    EXPECT_EQ(status.code(), Code::timeout);
    EXPECT_TRUE(mentions(status, "2 of 13 ranks have not joined in time: 2, 5"))
        << status.message();
  }
}

TEST(JoinErrors, a_long_list_of_missing_ranks_is_capped) {
  auto statuses = join_all(loopback_id(), {rank_of(7, 5000, 0.4)});
  EXPECT_TRUE(mentions(statuses[0], "4999 of 5000")) << statuses[0].message();
  EXPECT_TRUE(mentions(statuses[0], "and 4983 more")) << statuses[0].message();
  EXPECT_LT(statuses[0].message().size(), 400u);
}

TEST(JoinErrors, a_duplicate_rank_is_told_to_all_with_both_addresses) {
  auto statuses =
      join_all(loopback_id(), {rank_of(0, 4), rank_of(2, 4), rank_of(2, 4), rank_of(3, 4)});
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), Code::invalid_usage) << status.to_string();
    EXPECT_TRUE(mentions(status, "rank 2 joined twice: rank 2 (127.0.0.1:")) << status.message();
    EXPECT_TRUE(mentions(status, " and rank 2 (127.0.0.1:")) << status.message();
  }
}

TEST(JoinErrors, ranks_that_disagree_on_the_number_of_ranks) {
  auto statuses = join_all(loopback_id(), {rank_of(0, 4), rank_of(1, 4), rank_of(2, 5)});
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), Code::invalid_usage) << status.to_string();
    EXPECT_TRUE(mentions(status, "ranks disagree")) << status.message();
    EXPECT_TRUE(mentions(status, "expects 5")) << status.message();
    EXPECT_TRUE(mentions(status, "expects 4")) << status.message();
  }
}

TEST(JoinErrors, plan_formats_that_differ) {
  BootstrapOptions old = rank_of(1, 3);
  old.plan_format = 41;
  auto statuses = join_all(loopback_id(), {rank_of(0, 3), old});
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), Code::unsupported) << status.to_string();
    EXPECT_TRUE(mentions(status, "plan format 41") || mentions(status, "has 41"));
  }
}

// A rank built from another version, or on a machine of the other byte order, is told so and named
// to those who wait for it.
TEST(JoinErrors, another_wire_version_or_endianness_is_named_to_all) {
  for (const bool endianness : {false, true}) {
    const UniqueId id = loopback_id();
    std::array<std::byte, 64> hello{};
    std::memcpy(hello.data(), "Tuti", 4);
    hello[4] = std::byte(endianness ? k_wire_version : 99);
    hello[6] = std::byte(endianness ? 3 - (std::endian::native == std::endian::little ? 1 : 2)
                                    : (std::endian::native == std::endian::little ? 1 : 2));
    hello[7] = std::byte(Purpose::bootstrap);
    Fd fd = std::move(connect_to(root_of(id), in_seconds(10))).value();
    ASSERT_TRUE(write_exactly(fd.get(), hello.data(), hello.size(), in_seconds(10)).ok());
    const std::string culprit = local_address(fd.get())->to_string();
    for (const Status& status : join_all(id, {rank_of(0, 3, 1), rank_of(2, 3, 1)})) {
      EXPECT_EQ(status.code(), Code::timeout);
      EXPECT_TRUE(mentions(status, "1 of 3 ranks have not joined in time: 1")) << status.message();
      EXPECT_TRUE(mentions(status, culprit + (endianness ? " is " : " speaks wire version 99")))
          << status.message();
    }
  }
}

TEST(JoinErrors, out_of_range) {
  UniqueId id = loopback_id();
  EXPECT_EQ(Bootstrap::join(id, rank_of(4, 4)).status().code(), Code::invalid_argument);
  EXPECT_EQ(Bootstrap::join(id, rank_of(0, 0)).status().code(), Code::invalid_argument);
  EXPECT_EQ(Bootstrap::join(id, rank_of(0, 1 << 20)).status().code(), Code::invalid_argument);
}

TEST(JoinErrors, a_damaged_or_foreign_id) {
  UniqueId id = loopback_id();
  id.bytes[50] ^= std::byte{1};
  Status damaged = Bootstrap::join(id, rank_of(0, 2)).status();
  EXPECT_EQ(damaged.code(), Code::invalid_argument);
  EXPECT_TRUE(mentions(damaged, "damaged"));
  EXPECT_TRUE(mentions(Bootstrap::join(UniqueId(), rank_of(0, 2)).status(), "not a unique id"));
}

// The one with the wrong secret learns it; the others are joined as if nothing had been.
TEST(JoinErrors, a_wrong_secret_is_refused_and_the_job_goes_on) {
  UniqueId id = loopback_id();
  IdFields fields = decode_id(id).value();
  fields.secret[0] ^= std::byte{1};
  Status refused = Bootstrap::join(encode_id(fields), rank_of(1, 3)).status();
  EXPECT_EQ(refused.code(), Code::remote_error);
  EXPECT_TRUE(mentions(refused, "another secret")) << refused.message();
  EXPECT_TRUE(mentions(refused, root_of(id).to_string())) << refused.message();
  on_joined(id, 3, [](Rank, Bootstrap& bootstrap) {
    EXPECT_TRUE(bootstrap.barrier(in_seconds(60)).ok());
  });
}

TEST(JoinErrors, nobody_serves_the_id) {
  Fd probe = std::move(listen_on(Address::parse("127.0.0.1:0").value())).value();
  IdFields fields;
  fields.root = pack(local_address(probe.get()).value());
  std::string address = local_address(probe.get())->to_string();
  probe.reset();
  Status status = Bootstrap::join(encode_id(fields), rank_of(1, 2)).status();
  EXPECT_EQ(status.code(), Code::remote_error);
  EXPECT_TRUE(mentions(status, address)) << status.message();
  fields.rank_0_listens = true;  // rank 0 may come yet: wait for it, but not for ever
  Status late = Bootstrap::join(encode_id(fields), rank_of(1, 2, 0.2)).status();
  EXPECT_TRUE(mentions(late, address)) << late.message();
}

TEST(JoinErrors, the_port_of_rank_0_is_taken) {
  Fd taken = std::move(listen_on(Address::parse("127.0.0.1:0").value())).value();
  std::string address = local_address(taken.get())->to_string();
  UniqueId id = UniqueId::from_address(address, "secret").value();
  Status status = Bootstrap::join(id, rank_of(0, 2, 0.3)).status();
  EXPECT_EQ(status.code(), Code::system_error);
  EXPECT_TRUE(mentions(status, address)) << status.message();
}

TEST(JoinErrors, from_address_wants_a_port_a_host_and_a_secret) {
  for (auto [address, secret] :
       {std::pair{"10.0.0.1", "s"}, {"0.0.0.0:5", "s"}, {"nohost:5", "s"}, {"10.0.0.1:5", ""}}) {
    EXPECT_EQ(UniqueId::from_address(address, secret).status().code(), Code::invalid_argument);
  }
}

TEST(JoinErrors, an_unknown_interface_is_named) {
  UniqueId id = loopback_id();
  BootstrapOptions options = rank_of(1, 2);
  options.interface = "nosuchif";
  Status status = Bootstrap::join(id, options).status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_TRUE(mentions(status, "nosuchif")) << status.message();
  IdOptions id_options;
  id_options.interface = "=nosuchif";
  EXPECT_TRUE(mentions(create_id(id_options).status(), "nosuchif"));
}

// A rank that was placed, and dies before it reaches its parent, is missed by name.
TEST(JoinErrors, a_rank_that_dies_while_joining_is_named) {
  UniqueId id = loopback_id();
  Key key = bootstrap_key(decode_id(id)->secret);
  std::vector<std::thread> honest;
  std::mutex mutex;
  std::vector<Status> statuses;
  for (Rank rank : {0, 1, 2}) {
    honest.emplace_back([&, rank] {
      Status status = Bootstrap::join(id, rank_of(rank, 4)).status();
      std::lock_guard lock(mutex);
      statuses.push_back(status);
    });
  }
  std::this_thread::sleep_for(milliseconds(50));
  {
    Fd fd = std::move(connect_to(root_of(id), in_seconds(10))).value();
    Hello hello;
    hello.rank = 3;
    hello.data[0] = std::byte(Meeting::root);
    ASSERT_TRUE(authenticate(fd.get(), Role::client, key, hello, in_seconds(10)).ok());
    Channel channel(std::move(fd), 4096);
    JoinRequest request;
    request.ranks = 4;
    request.remaining_ms = 60'000;
    std::string payload;
    append(&payload, request);
    channel.send(encode_frame(FrameType::join, 0, payload));
    ASSERT_TRUE(wait_for(channel.fd(), POLLIN, in_seconds(10)).ok());
  }
  for (std::thread& thread : honest) thread.join();
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), Code::remote_error);
    EXPECT_TRUE(mentions(status, "rank 3 (127.0.0.1:")) << status.message();
  }
}

// Scanners, half-open connections and noise on the rendezvous port do not disturb a job.
TEST(JoinErrors, garbage_and_a_flood_on_the_rendezvous_port) {
  UniqueId id = loopback_id();
  Address root = root_of(id);
  std::atomic<bool> stop{false};
  std::vector<Fd> idle;
  for (int i = 0; i < 1200; ++i) {  // more than the service keeps
    Result<Fd> fd = connect_to(root, in_seconds(20));
    ASSERT_TRUE(fd.ok()) << fd.status().to_string();
    idle.push_back(std::move(*fd));
  }
  std::thread noise([&] {
    std::mt19937 random(3);
    while (!stop) {
      Result<Fd> fd = connect_to(root, in_seconds(20));
      if (!fd.ok()) continue;
      std::string garbage(random() % 300, static_cast<char>(random()));
      if (random() % 2) garbage.insert(0, std::string("Tuti\1\0\1\1", 8));
      (void)write_exactly(fd->get(), garbage.data(), garbage.size(), in_seconds(5));
      if (random() % 2) idle.push_back(std::move(*fd));
      std::this_thread::sleep_for(milliseconds(1));
    }
  });
  on_joined(id, 20, [](Rank, Bootstrap& bootstrap) {
    EXPECT_TRUE(bootstrap.barrier(in_seconds(60)).ok());
  });
  stop = true;
  noise.join();
}

// Somebody who knows the secret but breaks the protocol ends the job, by name.
TEST(JoinErrors, nonsense_from_a_rank_is_an_error_that_names_it) {
  UniqueId id = loopback_id();
  Key key = bootstrap_key(decode_id(id)->secret);
  std::thread honest([&] {
    Status status = Bootstrap::join(id, rank_of(0, 2)).status();
    EXPECT_TRUE(mentions(status, "rank 1 (127.0.0.1:")) << status.message();
  });
  std::this_thread::sleep_for(milliseconds(50));
  Fd fd = std::move(connect_to(root_of(id), in_seconds(10))).value();
  Hello hello;
  hello.rank = 1;
  hello.data[0] = std::byte(Meeting::root);
  ASSERT_TRUE(authenticate(fd.get(), Role::client, key, hello, in_seconds(10)).ok());
  Channel channel(std::move(fd), 4096);
  channel.send(encode_frame(FrameType::gather_up, 7, "out of place"));
  honest.join();
}

// In a child of its own, because limits cannot be raised again.
TEST(JoinErrors, running_out_of_descriptors_names_the_limit) {
  UniqueId id = loopback_id();
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    rlimit limit{24, 24};
    ::setrlimit(RLIMIT_NOFILE, &limit);
    std::vector<Fd> wasted;
    for (int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC); fd >= 0;
         fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) {
      wasted.emplace_back(fd);
    }
    Status status = Bootstrap::join(id, rank_of(0, 2, 2)).status();
    bool named = mentions(status, "RLIMIT_NOFILE");
    ::_exit(named ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace tutti
