// Dialling, accepting and authenticating connections, as state machines on epoll.
#include "transports/tcp/greeting.h"

#include <fmt/format.h>

#include <algorithm>

#include "transports/tcp/frame.h"

namespace tutti::tcp {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// While other ways are left to try, one has this long to answer.
constexpr seconds k_address_patience{3};
// Refused connections are tried again this often: a listener's queue may have been full, or the
// peer may have dropped a connection that it had no room for.
constexpr uint32_t k_rounds = 6;
constexpr milliseconds k_first_pause{20};

Hello hello_of(Rank me, const Purport& purport) {
  Hello hello;
  hello.purpose = Purpose::tcp;
  hello.rank = me;
  hello.data = encode_purport(purport);
  return hello;
}

uint32_t epoll_events(short events) {
  return events == POLLOUT ? uint32_t{EPOLLOUT} : uint32_t{EPOLLIN};
}

}  // namespace

std::array<std::byte, 24> encode_purport(const Purport& purport) {
  std::array<std::byte, 24> data{};
  const auto put = [&](size_t at, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) data[at + i] = std::byte(value >> (8 * i) & 0xff);
  };
  put(0, k_frame_version, 2);
  put(2, purport.stripe, 1);
  put(3, purport.stripes, 1);
  put(4, purport.lane, 4);
  put(8, purport.job, 8);
  put(16, purport.slot_bytes, 4);
  put(20, purport.credits, 4);
  return data;
}

Status decode_purport(const std::array<std::byte, 24>& data, Purport* purport) {
  const auto get = [&](size_t at, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= std::to_integer<uint64_t>(data[at + i]) << (8 * i);
    return value;
  };
  if (get(0, 2) != k_frame_version)
    return Status(Code::unsupported, fmt::format("it speaks tcp frames of version {}, here {}",
                                                 get(0, 2), k_frame_version));
  purport->stripe = static_cast<uint8_t>(get(2, 1));
  purport->stripes = static_cast<uint8_t>(get(3, 1));
  purport->lane = static_cast<uint32_t>(get(4, 4));
  purport->job = get(8, 8);
  purport->slot_bytes = static_cast<uint32_t>(get(16, 4));
  purport->credits = static_cast<uint32_t>(get(20, 4));
  return {};
}

void Greeting::watch(Fd fd, uint32_t events) {
  fd_ = std::move(fd);
  // A socket that cannot be watched is still advanced by its deadline; connections report it.
  (void)poller_->add(fd_.get(), events, this);
}

void Greeting::unwatch() {
  if (fd_) poller_->remove(fd_.get());
}

Fd Greeting::take() {
  unwatch();
  set_no_delay(fd_.get());
  return std::move(fd_);
}

Dialer::Dialer(DialPlan plan, Poller* poller)
    : Greeting(poller),
      plan_(std::move(plan)),
      give_up_at_(Clock::now() + plan_.timeout),
      deadline_(Clock::now()) {
  peer_ = plan_.peer;
  purport_ = plan_.purport;
}

Greeting::State Dialer::advance(Deadline now) {
  switch (stage_) {
    case Stage::pause:
      return now < deadline_ ? State::working : start(now);
    case Stage::connecting:
      return connecting(now);
    case Stage::greeting:
      return greet(now);
  }
  return State::working;
}

Greeting::State Dialer::start(Deadline now) {
  const Way& way = plan_.ways[way_];
  const bool chosen = way.from.valid();
  Result<Fd> fd = connect_start(way.to, chosen ? &way.from : nullptr);
  if (!fd.ok()) {
    // An interface that has lost its address leaves the other ways.
    if (fd.status().code() == Code::system_error && !chosen) return give_up(fd.status());
    return try_next(now, fd.status());
  }
  watch(std::move(*fd), EPOLLOUT);
  stage_ = Stage::connecting;
  const bool others = plan_.ways.size() > 1;
  deadline_ = others ? std::min(give_up_at_, now + k_address_patience) : give_up_at_;
  return connecting(now);
}

Greeting::State Dialer::connecting(Deadline now) {
  const Status connected = connect_error(fd_.get(), plan_.ways[way_].to);
  if (connected.code() == Code::in_progress) {
    if (now < deadline_) return State::working;
    return try_next(now, Status(Code::timeout, "no answer in time"));
  }
  if (!connected.ok()) return try_next(now, connected);
  handshake_.emplace(Role::client, plan_.key, hello_of(plan_.me, purport_), plan_.who,
                     Deadline::max());
  stage_ = Stage::greeting;
  deadline_ = Deadline::max();
  return greet(now);
}

Greeting::State Dialer::greet(Deadline now) {
  const AuthState state = handshake_->advance(fd_.get());
  if (state == AuthState::working) {
    poller_->modify(fd_.get(), epoll_events(handshake_->events()), this);
    return State::working;
  }
  if (state == AuthState::failed) {
    if (handshake_->status().code() != Code::remote_error) return give_up(handshake_->status());
    return try_next(now, handshake_->status());
  }
  Purport theirs;
  if (Status fits = decode_purport(handshake_->peer_hello().data, &theirs); !fits.ok())
    return give_up(fits);
  if (handshake_->peer_hello().rank != plan_.peer || theirs.job != purport_.job)
    return try_next(
        now, Status(Code::remote_error,
                    fmt::format("rank {} of {} job answers there", handshake_->peer_hello().rank,
                                theirs.job == purport_.job ? "this" : "another")));
  return State::done;
}

Greeting::State Dialer::try_next(Deadline now, Status why) {
  unwatch();
  fd_.reset();
  handshake_.reset();
  stage_ = Stage::pause;
  deadline_ = now;
  if (now >= give_up_at_ && why.code() == Code::timeout) return give_up(why);
  if (++way_ < plan_.ways.size()) return State::working;
  way_ = 0;
  if (why.code() == Code::timeout) return State::working;
  if (++failures_ >= k_rounds) return give_up(why);
  deadline_ = now + k_first_pause * (1 << (failures_ - 1));
  return State::working;
}

Greeting::State Dialer::give_up(const Status& why) {
  std::string tried;
  for (const Way& way : plan_.ways) {
    if (way.from.valid()) continue;  // the same addresses come again without
    tried += (tried.empty() ? "" : ", ") + way.to.to_string();
  }
  status_ =
      Status(why.code(), fmt::format("rank {}: cannot reach {} at {} over interface {}: {}",
                                     plan_.me, plan_.who, tried, plan_.interface, why.message()));
  return State::failed;
}

Answerer::Answerer(Accepted accepted, Rank me, uint64_t job, const Key& key, Deadline deadline,
                   Poller* poller)
    : Greeting(poller),
      job_(job),
      events_(POLLIN),
      handshake_(Role::server, key, hello_of(me, {k_control_lane, 0, 1, job, 0, 0}),
                 accepted.peer.to_string(), deadline) {
  watch(std::move(accepted.fd), EPOLLIN);
}

Greeting::State Answerer::advance(Deadline) {
  const AuthState state = handshake_.advance(fd_.get());
  if (state == AuthState::working) {
    if (handshake_.events() != events_) {
      events_ = handshake_.events();
      poller_->modify(fd_.get(), epoll_events(events_), this);
    }
    return State::working;
  }
  status_ = handshake_.status();
  if (state == AuthState::done) {
    peer_ = handshake_.peer_hello().rank;
    status_ = decode_purport(handshake_.peer_hello().data, &purport_);
    if (status_.ok() && purport_.job != job_)
      status_ = Status(Code::remote_error, "a rank of another communicator");
  }
  return status_.ok() ? State::done : State::failed;
}

}  // namespace tutti::tcp
