// link_floor: what shaped links carry, with bare sockets.
//
//   link_floor INDEX BYTES ITERATIONS ADDRESS:PORT...
//
// Run once on every host, INDEX being its place in the list. All hosts at once send BYTES to the
// next in the list while they receive as much from the one before: the traffic of an all-reduce
// over links of one NIC a host, without its dependencies. The first host prints the median
// milliseconds of the iterations, each the slowest host's.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <vector>

#include "src/base/socket.h"

namespace tutti {
namespace {

using std::chrono::duration;

SocketDeadline soon() { return SocketClock::now() + std::chrono::seconds(120); }

Status receive(int fd, size_t bytes, std::vector<char>& buffer) {
  for (size_t left = bytes; left > 0;) {
    const size_t part = std::min(left, buffer.size());
    TUTTI_RETURN_IF_ERROR(read_exactly(fd, buffer.data(), part, soon()));
    left -= part;
  }
  return {};
}

// Sends and receives `bytes`; returns when both are through.
Status stream(int to, int from, size_t bytes) {
  static std::vector<char> out(1 << 20), in(1 << 20);
  Status received;
  std::thread receiver([&] { received = receive(from, bytes, in); });
  Status sent;
  for (size_t left = bytes; left > 0 && sent.ok();) {
    const size_t part = std::min(left, out.size());
    sent = write_exactly(to, out.data(), part, soon());
    left -= part;
  }
  receiver.join();
  return sent.ok() ? received : sent;
}

// Twice around the ring: everybody has arrived, and knows it. Carries the largest of `value` round.
Status meet(int to, int from, bool first, double* value) {
  for (int lap = 0; lap < 2; ++lap) {
    double theirs = 0;
    if (first) TUTTI_RETURN_IF_ERROR(write_exactly(to, value, sizeof *value, soon()));
    TUTTI_RETURN_IF_ERROR(read_exactly(from, &theirs, sizeof theirs, soon()));
    *value = std::max(*value, theirs);
    if (!first) TUTTI_RETURN_IF_ERROR(write_exactly(to, value, sizeof *value, soon()));
  }
  return {};
}

Status run(size_t index, size_t bytes, int iterations, const std::vector<Address>& hosts) {
  Result<Fd> listener = listen_on(hosts[index], 16, true);
  if (!listener) return listener.status();
  Result<Fd> to = Status(Code::timeout, "not connected");
  for (const SocketDeadline deadline = soon(); !to && SocketClock::now() < deadline;) {
    to = connect_to(hosts[(index + 1) % hosts.size()], deadline);
    if (!to) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  if (!to) return to.status();
  Result<Accepted> from = accept_from(listener->get(), soon());
  if (!from) return from.status();
  std::vector<double> times;
  for (int i = 0; i <= iterations; ++i) {
    double none = 0;
    TUTTI_RETURN_IF_ERROR(meet(to->get(), from->fd.get(), index == 0, &none));
    const auto start = SocketClock::now();
    TUTTI_RETURN_IF_ERROR(stream(to->get(), from->fd.get(), bytes));
    double seconds = duration<double>(SocketClock::now() - start).count();
    TUTTI_RETURN_IF_ERROR(meet(to->get(), from->fd.get(), index == 0, &seconds));
    if (i > 0) times.push_back(seconds);  // the first one opens the windows
  }
  std::sort(times.begin(), times.end());
  if (index == 0) fmt::print("{:.2f}\n", times[times.size() / 2] * 1e3);
  return {};
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) {
  std::vector<tutti::Address> hosts;
  for (int i = 4; i < argc; ++i) {
    tutti::Result<tutti::Address> address = tutti::Address::parse(argv[i]);
    if (!address) {
      fmt::print(stderr, "link_floor: {}\n", address.status().to_string());
      return 2;
    }
    hosts.push_back(*address);
  }
  const long index = argc > 1 ? std::atol(argv[1]) : -1;
  const long long bytes = argc > 2 ? std::atoll(argv[2]) : 0;
  const int iterations = argc > 3 ? std::atoi(argv[3]) : 0;
  if (hosts.size() < 2 || index < 0 || static_cast<size_t>(index) >= hosts.size() || bytes <= 0 ||
      iterations <= 0) {
    fmt::print(stderr, "usage: link_floor INDEX BYTES ITERATIONS ADDRESS:PORT ADDRESS:PORT...\n");
    return 2;
  }
  const tutti::Status status =
      tutti::run(static_cast<size_t>(index), static_cast<size_t>(bytes), iterations, hosts);
  if (!status.ok()) fmt::print(stderr, "link_floor: {}\n", status.to_string());
  return status.ok() ? 0 : 1;
}
