// Addresses, interface selection and sockets with deadlines.
#include "src/base/socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <thread>

namespace tutti {
namespace {

using namespace std::chrono_literals;

SocketDeadline soon() { return SocketClock::now() + 20s; }

Address parsed(std::string_view text) {
  Result<Address> address = Address::parse(text);
  EXPECT_TRUE(address.ok()) << address.status().to_string();
  return address.ok() ? *address : Address();
}

TEST(Address, prints_what_it_parses) {
  for (const char* text : {"10.0.0.1:5000", "0.0.0.0:1", "[::1]:5000", "[fe80::1%lo]:5000",
                           "[2001:db8::7]:65535", "127.0.0.1:0"}) {
    EXPECT_EQ(parsed(text).to_string(), text);
  }
  EXPECT_EQ(parsed("::1").to_string(), "[::1]:0");
  EXPECT_EQ(parsed("fe80::1%1").to_string(), "[fe80::1%lo]:0");
  EXPECT_EQ(parsed("10.0.0.1").port(), 0);
  EXPECT_EQ(parsed("fe80::1%lo").scope_id(), 1u);
}

TEST(Address, refuses_what_is_none) {
  for (const char* text :
       {"", ":", "host:1", "1.2.3:4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1", "1.2.3.4:5x",
        "[::1", "[::1]5", "[::1]:", "::1%nothere", "1.2.3.4%lo:5", "[::1]:99999", "%lo", "[]:1"}) {
    Result<Address> address = Address::parse(text);
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_EQ(address.status().code(), Code::invalid_argument);
    EXPECT_NE(address.status().message().find(text), std::string::npos);
  }
}

TEST(Address, packs_and_unpacks) {
  for (const char* text : {"10.0.0.1:5000", "[::1]:5000", "[fe80::1%lo]:5000"}) {
    Result<Address> back = unpack(pack(parsed(text)));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(*back, parsed(text));
  }
  EXPECT_FALSE(unpack(pack(Address())).value().valid());
  PackedAddress bad{};
  bad[0] = std::byte{5};
  EXPECT_FALSE(unpack(bad).ok());
}

TEST(Address, a_scope_this_host_lacks_becomes_the_fallback) {
  PackedAddress packed = pack(parsed("[fe80::1%lo]:5000"));
  packed[20] = std::byte{'?'};
  EXPECT_EQ(unpack(packed, 42)->scope_id(), 42u);
}

std::vector<Interface> example() {
  auto one = [](const char* name, uint32_t index, const char* address) {
    Interface interface { name, index, Address::parse(address).value(), false };
    interface.loopback = interface.name == "lo";
    return interface;
  };
  return {one("lo", 1, "127.0.0.1"),  one("docker0", 2, "172.17.0.1"),
          one("eth0", 3, "fe80::1"),  one("eth0", 3, "fd00::1"),
          one("eth0", 3, "10.0.0.1"), one("eth1", 4, "10.1.0.1"),
          one("ib0", 5, "10.2.0.1"),  one("lo", 1, "::1")};
}

std::string order(std::string_view spec, std::string_view family) {
  Result<std::vector<Interface>> selected = select_interfaces(example(), spec, family);
  if (!selected.ok()) return "error: " + selected.status().message();
  std::string text;
  for (const Interface& interface : *selected) {
    std::string address = interface.address.to_string();
    text += interface.name + "=" + address.substr(0, address.rfind(':')) + " ";
  }
  return text;
}

TEST(Interfaces, documented_order) {
  EXPECT_EQ(order("", ""),
            "eth0=10.0.0.1 eth1=10.1.0.1 ib0=10.2.0.1 eth0=[fd00::1] eth0=[fe80::1] "
            "docker0=172.17.0.1 ");
  EXPECT_EQ(order("", "AF_INET6"), "eth0=[fd00::1] eth0=[fe80::1] ");
  EXPECT_EQ(order("ib,eth", "AF_INET"), "ib0=10.2.0.1 eth0=10.0.0.1 eth1=10.1.0.1 ");
  EXPECT_EQ(order("=eth1", ""), "eth1=10.1.0.1 ");
  EXPECT_EQ(order("^eth,docker", ""), "ib0=10.2.0.1 ");
  EXPECT_EQ(order("^=eth0", ""), "eth1=10.1.0.1 ib0=10.2.0.1 docker0=172.17.0.1 ");
  EXPECT_EQ(order("=^eth0", ""), order("^=eth0", ""));
  EXPECT_EQ(order("lo", ""), "lo=127.0.0.1 lo=[::1] ");
}

TEST(Interfaces, loopback_only_when_nothing_else_is_left) {
  EXPECT_EQ(order("^eth,docker,ib", ""), "lo=127.0.0.1 lo=[::1] ");
}

TEST(Interfaces, unknown_names_are_quoted_and_the_known_listed) {
  std::string error = order("=eth", "");
  EXPECT_NE(error.find("\"=eth\""), std::string::npos) << error;
  EXPECT_NE(error.find("eth1 (10.1.0.1)"), std::string::npos) << error;
  EXPECT_NE(order("ib", "AF_INET6").find("AF_INET6"), std::string::npos);
  EXPECT_NE(order("", "AF_UNIX").find("AF_UNIX"), std::string::npos);
  Result<Interface> real = select_interface("nosuchif", "");
  ASSERT_FALSE(real.ok());
  EXPECT_NE(real.status().message().find("nosuchif"), std::string::npos);
  EXPECT_NE(real.status().message().find("lo (127.0.0.1)"), std::string::npos);
}

TEST(Interfaces, which_addresses_are_on_its_network) {
  const auto at = [](const char* address, uint8_t prefix) {
    return Interface{"eth0", 1, Address::parse(address).value(), false, prefix};
  };
  const auto to = [](const char* address) { return Address::parse(address).value(); };
  EXPECT_TRUE(at("10.0.4.1", 22).reaches(to("10.0.7.255")));
  EXPECT_FALSE(at("10.0.4.1", 22).reaches(to("10.0.8.1")));
  EXPECT_TRUE(at("10.0.4.1", 32).reaches(to("10.0.4.1")));
  EXPECT_FALSE(at("10.0.4.1", 32).reaches(to("10.0.4.0")));
  EXPECT_FALSE(at("10.0.4.1", 0).reaches(to("10.0.4.1")));  // not known
  EXPECT_TRUE(at("fd00:1::1", 64).reaches(to("fd00:1::ffff")));
  EXPECT_FALSE(at("fd00:1::1", 64).reaches(to("fd00:2::1")));
  EXPECT_FALSE(at("fd00:1::1", 64).reaches(to("10.0.4.1")));
  EXPECT_FALSE(at("fe80::1", 64).reaches(to("fe80::2")));  // may be on any
  const Result<std::vector<Interface>> interfaces = list_interfaces();
  ASSERT_TRUE(interfaces.ok());
  for (const Interface& i : *interfaces)
    if (i.address.to_string().starts_with("127.0.0.1")) {
      EXPECT_EQ(i.prefix, 8);
    }
}

class SocketFamily : public testing::TestWithParam<const char*> {
 protected:
  bool available() {
    Result<Fd> fd = listen_on(parsed(GetParam()));
    return fd.ok();
  }
};

TEST_P(SocketFamily, connects_and_moves_bytes_both_ways) {
  if (!available()) GTEST_SKIP() << GetParam() << " is not usable here";
  Fd listener = std::move(listen_on(parsed(GetParam()))).value();
  Address at = local_address(listener.get()).value();
  EXPECT_NE(at.port(), 0);
  Fd client = std::move(connect_to(at, soon())).value();
  Accepted server = std::move(accept_from(listener.get(), soon())).value();
  EXPECT_EQ(server.peer, local_address(client.get()).value());
  std::string large(4 << 20, 'x');
  std::thread writer(
      [&] { EXPECT_TRUE(write_exactly(client.get(), large.data(), large.size(), soon()).ok()); });
  std::string got(large.size(), '\0');
  EXPECT_TRUE(read_exactly(server.fd.get(), got.data(), got.size(), soon()).ok());
  writer.join();
  EXPECT_EQ(got, large);
  EXPECT_TRUE(::fcntl(client.get(), F_GETFD) & FD_CLOEXEC);
  EXPECT_TRUE(::fcntl(server.fd.get(), F_GETFD) & FD_CLOEXEC);
}
INSTANTIATE_TEST_SUITE_P(Loopback, SocketFamily, testing::Values("127.0.0.1:0", "[::1]:0"));

TEST(Socket, link_local_with_scope_id) {
  auto all = list_interfaces();
  ASSERT_TRUE(all.ok());
  for (const Interface& interface : *all) {
    if (interface.address.family() != AF_INET6 || !interface.address.is_link_local()) continue;
    EXPECT_EQ(interface.address.scope_id(), interface.index);
    Fd listener = std::move(listen_on(interface.address)).value();
    Address at = parsed(local_address(listener.get()).value().to_string());
    EXPECT_TRUE(connect_to(at, soon()).ok()) << at.to_string();
    return;
  }
  GTEST_SKIP() << "no IPv6 link-local address on this host";
}

TEST(Socket, never_listens_everywhere) {
  for (const char* any : {"0.0.0.0:0", "[::]:0"}) {
    Result<Fd> fd = listen_on(parsed(any));
    ASSERT_FALSE(fd.ok());
    EXPECT_EQ(fd.status().code(), Code::invalid_argument);
  }
}

TEST(Socket, a_port_in_use_is_named) {
  Fd first = std::move(listen_on(parsed("127.0.0.1:0"))).value();
  Address at = local_address(first.get()).value();
  Result<Fd> second = listen_on(at);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(at.to_string()), std::string::npos);
}

TEST(Socket, nobody_listening_is_named) {
  Fd listener = std::move(listen_on(parsed("127.0.0.1:0"))).value();
  Address at = local_address(listener.get()).value();
  listener.reset();
  Result<Fd> fd = connect_to(at, soon());
  ASSERT_FALSE(fd.ok());
  EXPECT_EQ(fd.status().code(), Code::remote_error);
  EXPECT_NE(fd.status().message().find(at.to_string()), std::string::npos);
}

TEST(Socket, deadlines_hold) {
  Fd listener = std::move(listen_on(parsed("127.0.0.1:0"))).value();
  Address at = local_address(listener.get()).value();
  EXPECT_EQ(accept_from(listener.get(), SocketClock::now() + 20ms).status().code(), Code::timeout);
  Fd client = std::move(connect_to(at, soon())).value();
  char byte;
  Status late = read_exactly(client.get(), &byte, 1, SocketClock::now() + 20ms);
  EXPECT_EQ(late.code(), Code::timeout);
  EXPECT_NE(late.message().find(at.to_string()), std::string::npos);
  std::string huge(64 << 20, 'x');
  EXPECT_EQ(write_exactly(client.get(), huge.data(), huge.size(), SocketClock::now() + 50ms).code(),
            Code::timeout);
}

TEST(Socket, closed_peers_are_errors_and_no_signals) {
  Fd listener = std::move(listen_on(parsed("127.0.0.1:0"))).value();
  Address at = local_address(listener.get()).value();
  Fd client = std::move(connect_to(at, soon())).value();
  Accepted server = std::move(accept_from(listener.get(), soon())).value();
  ASSERT_TRUE(write_exactly(server.fd.get(), "abc", 3, soon()).ok());
  server.fd.reset();
  char data[8];
  Status closed = read_exactly(client.get(), data, 8, soon());
  EXPECT_EQ(closed.code(), Code::remote_error);
  EXPECT_NE(closed.message().find("after 3 of 8 bytes"), std::string::npos) << closed.to_string();
  Status broken;
  for (int i = 0; i < 1000 && broken.ok(); ++i)
    broken = write_exactly(client.get(), data, 8, soon());
  EXPECT_EQ(broken.code(), Code::remote_error);
}

TEST(Socket, signals_do_not_interrupt) {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  struct sigaction before {};
  ::sigaction(SIGUSR1, &action, &before);
  Fd listener = std::move(listen_on(parsed("127.0.0.1:0"))).value();
  Fd client = std::move(connect_to(local_address(listener.get()).value(), soon())).value();
  Accepted server = std::move(accept_from(listener.get(), soon())).value();
  std::thread reader([&] {
    char byte = 0;
    EXPECT_TRUE(read_exactly(client.get(), &byte, 1, soon()).ok());
    EXPECT_EQ(byte, 'x');
  });
  for (int i = 0; i < 20; ++i) {
    ::pthread_kill(reader.native_handle(), SIGUSR1);
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(write_exactly(server.fd.get(), "x", 1, soon()).ok());
  reader.join();
  ::sigaction(SIGUSR1, &before, nullptr);
}

// In a child of its own, because hard limits cannot be raised again. Exit codes: 0 as it should be.
int exhaust(rlim_t soft, rlim_t hard, const Address& at) {
  rlimit limit{soft, hard};
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 2;
  std::vector<Fd> open;
  for (rlim_t i = 0; i < hard + 2; ++i) {
    Result<Fd> fd = connect_start(at);
    if (!fd.ok()) {
      bool named = fd.status().message().find("RLIMIT_NOFILE") != std::string::npos;
      return named && (open.empty() || open.back().get() + 1 == static_cast<int>(hard)) ? 0 : 1;
    }
    open.push_back(std::move(*fd));
  }
  return 3;
}

TEST(Socket, the_soft_descriptor_limit_is_raised_and_the_hard_one_named) {
  Fd listener = std::move(listen_on(parsed("127.0.0.1:0"))).value();
  Address at = local_address(listener.get()).value();
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(exhaust(20, 60, at));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace tutti
