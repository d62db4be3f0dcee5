// The life of a tcp transport: listen, learn cards, connect lazily, accept, close.
#include "transports/tcp/tcp_transport.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "src/base/socket.h"
#include "transports/tcp/tcp.h"

namespace tutti {

Result<std::unique_ptr<Transport>> make_tcp_transport(const TransportOptions& options) {
  return tcp::TcpTransport::make(options);
}

namespace tcp {
namespace {

constexpr size_t k_most_message = size_t{1} << 30;
constexpr uint32_t k_most_credits = 1 << 16;
// A stranger who connects has this long to prove that it is none.
constexpr std::chrono::seconds k_stranger_patience{60};
// progress() looks at sockets that nobody is polling every so many calls.
constexpr uint32_t k_background_polls = 16;

std::string this_host() {
  char name[256] = "";
  if (::gethostname(name, sizeof name - 1) != 0) return "unknown";
  return name;
}

uint64_t key_of(Rank peer, uint32_t lane) { return uint64_t{peer} << 32 | lane; }

Status unsupported(const char* what) {
  return Status(Code::unsupported, std::string("tcp has no ") + what);
}

Status name_limit(const Status& status) {
  rlimit limit{};
  if (status.code() != Code::system_error || ::getrlimit(RLIMIT_NOFILE, &limit) != 0) return status;
  return Status(status.code(), fmt::format("{} (this process may open {} files)", status.message(),
                                           limit.rlim_cur));
}

}  // namespace

TcpTransport::TcpTransport(const TransportOptions& options, Poller poller)
    : options_(options), poller_(std::move(poller)), key_(derive_key(options.key, "tcp data")) {
  const Key job = derive_key(options.key, "tcp job " + options.job);
  std::memcpy(&job_, job.data(), sizeof job_);
}

TcpTransport::~TcpTransport() = default;

Result<std::unique_ptr<Transport>> TcpTransport::make(const TransportOptions& options) {
  if (options.key.size() != sizeof(Key))
    return Status(Code::invalid_argument, fmt::format("tcp needs a key of {} bytes, got {}",
                                                      sizeof(Key), options.key.size()));
  if (options.rank >= options.ranks)
    return Status(Code::invalid_argument,
                  fmt::format("rank {} of {}", options.rank, options.ranks));
  if (options.connections_per_peer < 1 || options.connections_per_peer > k_most_tcp_connections)
    return Status(Code::invalid_argument,
                  fmt::format("{} connections per peer; 1 to {} are possible",
                              options.connections_per_peer, k_most_tcp_connections));
  if (options.interfaces < 1 || options.interfaces > k_most_tcp_interfaces)
    return Status(Code::invalid_argument, fmt::format("{} interfaces side by side; 1 to {} are "
                                                      "possible",
                                                      options.interfaces, k_most_tcp_interfaces));
  Result<Poller> poller = Poller::make();
  if (!poller.ok()) return poller.status();
  std::unique_ptr<TcpTransport> transport(new TcpTransport(options, std::move(*poller)));
  if (Status listening = transport->listen(); !listening.ok())
    return name_limit(listening).with_context(fmt::format("rank {}: tcp", options.rank));
  return std::unique_ptr<Transport>(std::move(transport));
}

// All addresses of the best interfaces, IPv4 and IPv6, as far as the card has room for them, each
// with a socket and port of its own.
Status TcpTransport::listen() {
  auto found = select_interfaces(options_.interface, options_.family);
  if (!found.ok()) return found.status();
  std::vector<std::string> names;
  for (const Interface& i : *found)
    if (names.size() < options_.interfaces &&
        std::find(names.begin(), names.end(), i.name) == names.end())
      names.push_back(i.name);
  scope_ = found->front().index;
  card_.host = this_host();
  card_.pid = static_cast<uint32_t>(::getpid());
  const size_t most = std::min<size_t>(4, k_most_addresses / names.size());
  Status last;
  for (const std::string& name : names) {
    const auto number = static_cast<uint8_t>(interfaces_.empty() ? 0 : card_.interfaces());
    size_t open = 0;
    for (const Interface& i : *found) {
      if (i.name != name || open == most) continue;
      // A tentative IPv6 address, say, cannot be listened on; the others will do.
      last = listen_on_interface(i, number);
      if (last.ok()) ++open;
    }
    if (open > 0) interface_names_ += (interface_names_.empty() ? "" : ", ") + name;
  }
  return listeners_.empty() ? last : Status();
}

Status TcpTransport::listen_on_interface(const Interface& interface, uint8_t number) {
  auto fd = listen_on(interface.address);
  if (!fd.ok()) return fd.status();
  auto address = local_address(fd->get());
  if (!address.ok()) return address.status();
  auto listener = std::make_unique<Listener>();
  listener->fd = std::move(*fd);
  TUTTI_RETURN_IF_ERROR(poller_.add(listener->fd.get(), EPOLLIN, listener.get()));
  listeners_.push_back(std::move(listener));
  interfaces_.push_back(interface);
  card_.addresses.push_back({*address, number});
  return {};
}

Capabilities TcpTransport::capabilities() const {
  Capabilities capabilities;
  capabilities.max_message = k_most_message;
  return capabilities;
}

Status TcpTransport::connect(std::span<const std::string> cards, Deadline) {
  if (cards.size() != options_.ranks)
    return Status(Code::invalid_argument,
                  fmt::format("{} cards for {} ranks", cards.size(), options_.ranks));
  for (Rank rank = 0; rank < cards.size(); ++rank) {
    if (cards[rank].empty() || rank == options_.rank) continue;
    auto card = decode_card(cards[rank], scope_);
    if (!card.ok())
      return card.status().with_context(
          fmt::format("rank {}: card of peer {}", options_.rank, rank));
  }
  cards_.assign(cards.begin(), cards.end());
  return {};
}

bool TcpTransport::reaches(Rank peer) const {
  return peer != options_.rank && peer < cards_.size() && !cards_[peer].empty();
}

Result<TcpTransport::Peer*> TcpTransport::peer_of(Rank rank) {
  if (auto found = peers_.find(rank); found != peers_.end()) return found->second.get();
  if (!reaches(rank))
    return Status(Code::invalid_argument,
                  fmt::format("rank {}: tcp does not reach peer {}", options_.rank, rank));
  auto card = decode_card(cards_[rank], scope_);
  if (!card.ok()) return card.status();
  auto peer = std::make_unique<Peer>();
  peer->card = std::move(*card);
  return peers_.emplace(rank, std::move(peer)).first->second.get();
}

std::string TcpTransport::describe_peer(Rank rank) {
  auto peer = peer_of(rank);
  if (!peer.ok()) return fmt::format("rank {}", rank);
  return fmt::format("rank {} (host {}, pid {})", rank, (*peer)->card.host, (*peer)->card.pid);
}

TcpEndpoint* TcpTransport::find(Rank peer, uint32_t lane) const {
  const auto found = endpoints_.find(key_of(peer, lane));
  return found == endpoints_.end() ? nullptr : found->second.get();
}

Result<Endpoint*> TcpTransport::open(Rank rank, uint32_t lane, const EndpointOptions& options) {
  const std::string context = fmt::format("rank {}: lane {} to peer {}", options_.rank, lane, rank);
  if (closed_) return Status(Code::invalid_usage, context + ": the transport is closed");
  auto peer = peer_of(rank);
  if (!peer.ok()) return peer.status();
  if (options.slot_bytes > k_most_message || options.credits == 0 ||
      options.credits > k_most_credits || lane == k_control_lane)
    return Status(
        Code::invalid_argument,
        fmt::format("{}: {} bytes and {} credits; at most {} bytes and 1 to {} credits", context,
                    options.slot_bytes, options.credits, k_most_message, k_most_credits));
  if (TcpEndpoint* known = find(rank, lane)) {
    if (known->slot_bytes() == options.slot_bytes && known->credits() == options.credits)
      return known;
    return Status(Code::invalid_usage, context + ": opened twice with different options");
  }
  const uint32_t stripes = options_.connections_per_peer;
  auto made = std::make_unique<TcpEndpoint>(rank, lane, options, stripes, &activity_);
  TcpEndpoint* endpoint = made.get();
  endpoints_.emplace(key_of(rank, lane), std::move(made));
  if (!(*peer)->lost.ok()) endpoint->fail((*peer)->lost);
  for (Connection* connection : (*peer)->connections) {
    if (connection->identity().lane != lane) continue;
    if (const auto parked = parked_.find(connection); parked != parked_.end()) {
      adopt(*connection, parked->second, *endpoint);
      parked_.erase(parked);
    }
  }
  if (options_.rank < rank) {
    for (uint32_t stripe = 0; stripe < stripes; ++stripe)
      dial(rank, **peer,
           {lane, static_cast<uint8_t>(stripe), static_cast<uint8_t>(stripes), job_,
            static_cast<uint32_t>(options.slot_bytes), options.credits});
  }
  return endpoint;
}

void TcpTransport::dial(Rank rank, Peer& peer, const Purport& purport) {
  DialPlan plan{options_.rank,
                rank,
                describe_peer(rank),
                interface_names_,
                ways_to(peer.card, interfaces_, purport.stripe),
                key_,
                purport,
                options_.connect_timeout};
  greetings_.push_back(std::make_unique<Dialer>(std::move(plan), &poller_));
}

// A connection whose other end has proved who it is.
void TcpTransport::admit(Greeting& greeting) {
  const Rank rank = greeting.peer();
  const Purport& purport = greeting.purport();
  auto peer = peer_of(rank);
  if (!peer.ok()) return;
  const bool control = purport.lane == k_control_lane;
  if (greeting.dialled() && control) (*peer)->dialling_control = false;
  // Lanes are dialled by the lower rank; anything else is a rank that lost its way.
  if (!control && !greeting.dialled() && rank > options_.rank) return;
  connections_.push_back(std::make_unique<Connection>(
      greeting.take(),
      Connection::Identity{rank, purport.lane, purport.stripe,
                           fmt::format("rank {}: {}", options_.rank, describe_peer(rank))},
      &poller_, static_cast<ConnectionOwner*>(this)));
  Connection& connection = *connections_.back();
  (*peer)->connections.push_back(&connection);
  if (!control) {
    if (TcpEndpoint* endpoint = find(rank, purport.lane))
      adopt(connection, purport, *endpoint);
    else
      parked_.emplace(&connection, purport);
  }
  if (own_error_ && !(*peer)->told_error) send_error(connection, **peer);
  on_event();
}

void TcpTransport::adopt(Connection& connection, const Purport& purport, TcpEndpoint& endpoint) {
  if (purport.stripes != options_.connections_per_peer ||
      purport.slot_bytes != endpoint.slot_bytes() || purport.credits != endpoint.credits()) {
    Status mismatch(
        Code::invalid_usage,
        fmt::format(
            "{} opened lane {} with {} bytes, {} credits and {} connections, this rank with "
            "{} bytes, {} credits and {} connections",
            connection.identity().name, endpoint.lane(), purport.slot_bytes, purport.credits,
            purport.stripes, endpoint.slot_bytes(), endpoint.credits(),
            options_.connections_per_peer));
    endpoint.fail(mismatch);
    const std::string text = encode_error(
        {mismatch.code(), options_.rank, connection.identity().peer, mismatch.message()});
    connection.send_control(FrameKind::error, 0, std::as_bytes(std::span(text)));
    return;
  }
  if (!endpoint.has(purport.stripe)) endpoint.attach(purport.stripe, &connection);
}

void TcpTransport::accept_all() {
  for (auto& listener : listeners_) {
    if (!std::exchange(listener->ready, false)) continue;
    while (true) {
      auto accepted = try_accept(listener->fd.get());
      if (!accepted.ok()) {
        if (failure_.ok())
          failure_ = name_limit(accepted.status())
                         .with_context(fmt::format("rank {}: tcp", options_.rank));
        poller_.remove(listener->fd.get());  // it would stay ready for ever
        break;
      }
      if (!accepted->has_value()) break;
      make_room();
      greetings_.push_back(std::make_unique<Answerer>(std::move(**accepted), options_.rank, job_,
                                                      key_, Clock::now() + k_stranger_patience,
                                                      &poller_));
    }
  }
}

// A flood of strangers may not use up the descriptors: the oldest of them has to go. A peer that is
// hit dials again.
void TcpTransport::make_room() {
  const size_t most = 256 + 4 * size_t{options_.ranks};
  const auto stranger = [](const auto& greeting) { return !greeting->dialled(); };
  if (greetings_.size() < most) return;
  const auto oldest = std::find_if(greetings_.begin(), greetings_.end(), stranger);
  if (oldest != greetings_.end()) greetings_.erase(oldest);
}

void TcpTransport::advance_greetings() {
  if (greetings_.empty()) return;
  const Deadline now = Clock::now();
  bool any_finished = false;
  for (size_t i = 0; i < greetings_.size(); ++i) {
    if (!greetings_[i]->due(now)) continue;
    const Greeting::State state = greetings_[i]->advance(now);
    if (state == Greeting::State::working) continue;
    const std::unique_ptr<Greeting> greeting = std::move(greetings_[i]);
    any_finished = true;
    if (state == Greeting::State::done)
      admit(*greeting);
    else
      greeting_failed(*greeting);
  }
  if (any_finished) std::erase(greetings_, nullptr);
}

void TcpTransport::greeting_failed(Greeting& greeting) {
  if (!greeting.dialled()) return;  // a stranger: not worth a word
  auto peer = peer_of(greeting.peer());
  if (!peer.ok()) return;
  const Status why = name_limit(greeting.status());
  if (greeting.purport().lane == k_control_lane) (*peer)->dialling_control = false;
  if (TcpEndpoint* endpoint = find(greeting.peer(), greeting.purport().lane)) endpoint->fail(why);
  if (!(*peer)->left) lose(greeting.peer(), why);
}

std::vector<Rank> TcpTransport::lost() const {
  std::vector<Rank> ranks;
  for (const auto& [rank, peer] : peers_)
    if (peer->left || !peer->lost.ok()) ranks.push_back(rank);
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

// The peer is gone: lanes that were still waiting for it to connect will wait in vain.
void TcpTransport::lose(Rank rank, const Status& status) {
  auto peer = peer_of(rank);
  if (!peer.ok()) return;
  if ((*peer)->lost.ok()) (*peer)->lost = status;
  if (failure_.ok()) failure_ = status;
  for (auto& [key, endpoint] : endpoints_) {
    if (endpoint->peer() == rank && !endpoint->has(0)) endpoint->fail(status);
  }
  on_event();
}

void TcpTransport::poll(Clock::duration timeout) {
  poller_.dispatch(timeout);
  accept_all();
  advance_greetings();
}

Status TcpTransport::progress() {
  if (!greetings_.empty() || ++idle_polls_ >= k_background_polls) {
    idle_polls_ = 0;
    poll(Clock::duration::zero());
    for (Connection* connection : blocked_) (void)connection->flush();
    std::erase_if(activity_.owing, [](TcpEndpoint* endpoint) { return endpoint->settle(); });
  }
  return failure_;
}

void TcpTransport::wait(Clock::duration timeout) {
  if (activity_.seen != activity_.events) {
    activity_.seen = activity_.events;
    return;
  }
  for (Connection* connection : blocked_) connection->arm_write();
  blocked_.clear();
  for (const auto& greeting : greetings_)
    timeout = std::min(timeout, greeting->next_deadline() - Clock::now());
  poll(std::max(timeout, Clock::duration::zero()));
  activity_.seen = activity_.events;
}

void TcpTransport::close(Deadline deadline) {
  if (std::exchange(closed_, true)) return;
  greetings_.clear();
  for (auto& listener : listeners_) poller_.remove(listener->fd.get());
  listeners_.clear();
  for (auto& connection : connections_) connection->say_goodbye();
  const auto finished = [](const auto& connection) { return connection->finished(); };
  while (!std::all_of(connections_.begin(), connections_.end(), finished)) {
    const auto now = Clock::now();
    if (now >= deadline) break;
    for (Connection* connection : blocked_) connection->arm_write();
    blocked_.clear();
    // Acknowledgements of the last bytes make no event, so this looks again every millisecond.
    poller_.dispatch(std::min<Clock::duration>(deadline - now, std::chrono::milliseconds(1)));
  }
  const Status closed(Code::invalid_usage,
                      fmt::format("rank {}: the transport is closed", options_.rank));
  for (auto& [key, endpoint] : endpoints_) endpoint->close(closed);
  connections_.clear();
  parked_.clear();
  blocked_.clear();
  for (auto& [rank, peer] : peers_) peer->connections.clear();
}

Result<MemoryRef> TcpTransport::describe(const void*, size_t) {
  return unsupported("memory that peers could name");
}
Result<void*> TcpTransport::map(Rank, MemoryRef, size_t) { return unsupported("memory of peers"); }
Status TcpTransport::remote_read(Rank, uint64_t, std::span<std::byte>) {
  return unsupported("remote reads");
}
Status TcpTransport::remote_write(Rank, uint64_t, std::span<const std::byte>) {
  return unsupported("remote writes");
}

}  // namespace tcp
}  // namespace tutti
