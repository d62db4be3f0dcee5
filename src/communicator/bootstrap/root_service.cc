// The root service's thread; see root_service.h.
#include "src/communicator/bootstrap/root_service.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <list>
#include <optional>
#include <vector>

#include "src/base/thread.h"
#include "tutti/types.h"

namespace tutti {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Strangers that have not proven the secret: beyond this many the oldest one goes.
constexpr size_t k_max_half_open = 1024;
constexpr seconds k_handshake_timeout{10};
// How many missing ranks a message lists.
constexpr size_t k_max_listed = 16;

struct Visitor {
  Fd fd;  // until `channel` owns it
  Handshake handshake;
  std::optional<Channel> channel;
  std::string name;
  Rank rank = 0;
  bool joined = false;
  bool linked = false;
  bool old = false;  // of a job that is complete
  bool gone = false;

  int descriptor() const { return channel ? channel->fd() : fd.get(); }
};

struct Member {
  Rank rank = 0;
  std::string name;  // "rank 3 (10.0.0.2:4711)"
  PackedAddress listens{};
  bool linked = false;
};

class RootService {
 public:
  RootService(Fd listener, const Key& secret, SocketClock::duration idle_timeout, bool persistent)
      : listener_(std::move(listener)),
        key_(bootstrap_key(secret)),
        persistent_(persistent),
        expires_(SocketClock::now() + idle_timeout) {}

  Status start();
  void run();

 private:
  void next_job();
  void wait_for_events();
  void accept_all();
  void evict_one();
  void serve(Visitor& visitor);
  void greet(Visitor& visitor);
  void refuse(const Status& why);
  void handle(Visitor& visitor, const Frame& frame);
  void join(Visitor& visitor, const JoinRequest& request);
  Status admissible(const Visitor& visitor, const JoinRequest& request) const;
  void place(Visitor& visitor);
  void linked(Visitor& visitor);
  void report(Visitor& visitor, const Status& why);
  void lost(Visitor& visitor);
  void fail(const Status& why);
  void check_deadlines();
  std::string missing() const;
  bool finished() const;
  void leave(Visitor& visitor) {
    visitor.gone = true;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, visitor.descriptor(), nullptr);
  }

  Fd listener_;
  Fd epoll_;
  Key key_;
  const bool persistent_;
  SocketClock::time_point expires_;  // with nobody there, and after a failure
  SocketClock::time_point fails_at_ = SocketClock::time_point::max();
  std::list<Visitor> visitors_;  // in order of arrival
  size_t half_open_ = 0;
  uint32_t ranks_ = 0;  // 0: nobody has come
  uint32_t plan_format_ = 0;
  std::vector<Member> members_;     // by index of placement
  std::vector<uint32_t> index_of_;  // by rank; k_nobody when it has not come
  uint32_t linked_ = 0;
  Visitor* top_ = nullptr;  // the rank at the top of the tree, index 0
  bool ready_ = false;
  Status failure_;
  size_t refusals_ = 0;
  Status refusal_;  // the most telling one

  static constexpr uint32_t k_nobody = ~0u;
};

Status RootService::start() {
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  if (!epoll_ || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, listener_.get(), &event) != 0) {
    return Status(Code::system_error, "cannot watch the root's socket: " + errno_text(errno));
  }
  return Status();
}

void RootService::run() {
  while (!finished()) {
    wait_for_events();
    check_deadlines();
    std::erase_if(visitors_, [](const Visitor& visitor) { return visitor.gone; });
    if (persistent_ && ready_) next_job();
  }
}

// Ranks of the last job may still be connected; what they say no longer matters.
void RootService::next_job() {
  if (top_ != nullptr && !top_->channel->flushed()) return;
  for (Visitor& visitor : visitors_) visitor.old = visitor.old || visitor.joined;
  ranks_ = 0;
  members_.clear();
  index_of_.clear();
  linked_ = 0;
  top_ = nullptr;
  ready_ = false;
  refusals_ = 0;
  refusal_ = {};
  fails_at_ = SocketClock::time_point::max();
}

// All are linked and the top has been told; or the time is up.
bool RootService::finished() const {
  if (persistent_) return false;
  if (ready_) return top_ == nullptr || top_->channel->flushed();
  return SocketClock::now() >= expires_ && (ranks_ == 0 || !failure_.ok());
}

void RootService::wait_for_events() {
  SocketClock::time_point next = persistent_ ? fails_at_ : std::min(fails_at_, expires_);
  for (const Visitor& visitor : visitors_) {
    if (visitor.channel) continue;
    next = std::min(next, visitor.handshake.deadline());
    break;  // the oldest: all have the same timeout
  }
  auto now = SocketClock::now();
  next = std::min<SocketClock::time_point>(next, now + seconds(60));
  auto left = std::chrono::ceil<milliseconds>(next - now).count();
  epoll_event events[64];
  int ready = ::epoll_wait(epoll_.get(), events, 64,
                           static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
  for (int i = 0; i < ready; ++i) {
    auto* visitor = static_cast<Visitor*>(events[i].data.ptr);
    if (visitor == nullptr) {
      accept_all();
    } else if (!visitor->gone) {
      serve(*visitor);
    }
  }
}

void RootService::accept_all() {
  for (int i = 0; i < 64; ++i) {
    Result<std::optional<Accepted>> accepted = try_accept(listener_.get());
    if (!accepted.ok()) {  // out of descriptors: give visitors time to leave
      std::this_thread::sleep_for(milliseconds(10));
      return evict_one();
    }
    if (!accepted->has_value()) return;
    if (half_open_ >= k_max_half_open) evict_one();
    Accepted& visitor = **accepted;
    std::string name = visitor.peer.to_string();
    Hello hello;
    hello.data[0] = std::byte(Meeting::root);
    int fd = visitor.fd.get();
    set_no_delay(fd);
    visitors_.push_back(
        {std::move(visitor.fd),
         Handshake(Role::server, key_, hello, name, SocketClock::now() + k_handshake_timeout),
         std::nullopt, name});
    ++half_open_;
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.ptr = &visitors_.back();
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) visitors_.back().gone = true;
  }
}

void RootService::evict_one() {
  for (Visitor& visitor : visitors_) {
    if (visitor.gone || visitor.channel) continue;
    leave(visitor);
    --half_open_;
    return;
  }
}

void RootService::serve(Visitor& visitor) {
  if (!visitor.channel) greet(visitor);
  if (!visitor.channel || visitor.gone) return;
  Status flushed = visitor.channel->flush();
  Status received = visitor.channel->receive();
  Frame frame;
  while (!visitor.gone && visitor.channel->pop(&frame)) {
    if (!visitor.old) handle(visitor, frame);
  }
  if (!visitor.gone && (!received.ok() || !flushed.ok())) lost(visitor);
}

// Strangers, garbage and wrong secrets are turned away here; the job goes on.
void RootService::greet(Visitor& visitor) {
  AuthState state = visitor.handshake.advance(visitor.fd.get());
  if (state == AuthState::working) return;
  --half_open_;
  bool known = state == AuthState::done &&
               visitor.handshake.peer_hello().data[0] == std::byte(Meeting::root);
  if (!known) {
    refuse(visitor.handshake.status());
    return leave(visitor);
  }
  visitor.rank = visitor.handshake.peer_hello().rank;
  visitor.name = "rank " + std::to_string(visitor.rank) + " (" + visitor.name + ")";
  visitor.channel.emplace(std::move(visitor.fd), k_small_frame);
}

// One of them may have been a missing rank, of another build or with another secret: no reason to
// end the job on a stranger's word, but worth telling when time is up.
void RootService::refuse(const Status& why) {
  ++refusals_;
  if (refusal_.ok() || refusal_.code() != Code::unsupported) refusal_ = why;
}

void RootService::handle(Visitor& visitor, const Frame& frame) {
  std::string_view payload = frame.payload;
  JoinRequest request;
  if (frame.type == FrameType::join && !visitor.joined && take(&payload, &request)) {
    return join(visitor, request);
  }
  if (frame.type == FrameType::linked && visitor.joined && !visitor.linked) {
    return linked(visitor);
  }
  if (frame.type == FrameType::broken) return report(visitor, decode_status(frame.payload));
  if (frame.type == FrameType::goodbye) return leave(visitor);
  fail(Status(Code::remote_error, visitor.name + " broke the rendezvous protocol"));
}

Status RootService::admissible(const Visitor& visitor, const JoinRequest& request) const {
  if (request.ranks == 0 || request.ranks > k_max_ranks || visitor.rank >= request.ranks) {
    return Status(Code::invalid_argument, visitor.name + " is out of range of " +
                                              std::to_string(request.ranks) + " ranks (at most " +
                                              std::to_string(k_max_ranks) + ")");
  }
  if (members_.empty()) return Status();
  const Member& first = members_.front();
  if (request.ranks != ranks_) {
    return Status(Code::invalid_usage, "ranks disagree: " + visitor.name + " expects " +
                                           std::to_string(request.ranks) + " ranks, " + first.name +
                                           " expects " + std::to_string(ranks_));
  }
  if (request.plan_format != plan_format_) {
    return Status(Code::unsupported, "library versions differ: " + visitor.name +
                                         " has plan format " + std::to_string(request.plan_format) +
                                         ", " + first.name + " has " +
                                         std::to_string(plan_format_));
  }
  uint32_t index = index_of_[visitor.rank];
  if (index != k_nobody) {
    return Status(Code::invalid_usage, "rank " + std::to_string(visitor.rank) + " joined twice: " +
                                           members_[index].name + " and " + visitor.name);
  }
  return Status();
}

void RootService::join(Visitor& visitor, const JoinRequest& request) {
  if (ready_) return leave(visitor);  // of the next job on this address; it will try again
  auto left = milliseconds(request.remaining_ms);
  auto now = SocketClock::now();
  // Early enough for the news to reach everybody before their own deadlines.
  fails_at_ = std::min(fails_at_, now + left - std::min<milliseconds>(seconds(2), left / 8));
  expires_ = std::max(members_.empty() ? now : expires_, now + left);
  if (Status fits = admissible(visitor, request); !fits.ok() && failure_.ok()) fail(fits);
  if (!failure_.ok()) {
    visitor.channel->send(encode_frame(FrameType::broken, 0, encode_status(failure_)));
    return;
  }
  visitor.joined = true;
  if (members_.empty()) {
    ranks_ = request.ranks;
    plan_format_ = request.plan_format;
    index_of_.assign(ranks_, k_nobody);
    top_ = &visitor;
  }
  index_of_[visitor.rank] = static_cast<uint32_t>(members_.size());
  members_.push_back({visitor.rank, visitor.name, request.listens});
  place(visitor);
}

void RootService::place(Visitor& visitor) {
  Placement placement;
  placement.index = index_of_[visitor.rank];
  uint64_t first_child = uint64_t{placement.index} * k_tree_arity + 1;
  placement.children =
      first_child >= ranks_
          ? 0
          : static_cast<uint32_t>(std::min<uint64_t>(k_tree_arity, ranks_ - first_child));
  if (placement.index > 0) {
    const Member& parent = members_[(placement.index - 1) / k_tree_arity];
    placement.parent_rank = parent.rank;
    placement.parent = parent.listens;
  }
  std::string payload;
  append(&payload, placement);
  visitor.channel->send(encode_frame(FrameType::place, 0, payload));
}

void RootService::linked(Visitor& visitor) {
  visitor.linked = true;
  members_[index_of_[visitor.rank]].linked = true;
  if (++linked_ < ranks_ || !failure_.ok()) return;
  ready_ = true;
  if (top_ != nullptr) top_->channel->send(encode_frame(FrameType::ready, 0, {}));
}

// A rank that fails says why and asks what came first.
void RootService::report(Visitor& visitor, const Status& why) {
  if (ready_) return leave(visitor);
  fail(why);
  visitor.channel->send(encode_frame(FrameType::broken, 0, encode_status(failure_)));
}

void RootService::lost(Visitor& visitor) {
  leave(visitor);
  if (visitor.old) return;
  if (&visitor == top_) top_ = nullptr;
  bool early = visitor.joined && !visitor.linked;
  bool top = visitor.joined && top_ == nullptr && !ready_;
  if (failure_.ok() && (early || top)) {
    fail(Status(Code::remote_error, visitor.name + " left while the ranks were joining"));
  }
}

// The first cause goes to everybody who is there and to the top, which tells the tree.
void RootService::fail(const Status& why) {
  if (!failure_.ok()) return;
  failure_ = why;
  Encoded frame = encode_frame(FrameType::broken, 0, encode_status(failure_));
  for (Visitor& visitor : visitors_) {
    if (visitor.channel && visitor.joined && !visitor.gone) visitor.channel->send(frame);
  }
}

void RootService::check_deadlines() {
  auto now = SocketClock::now();
  for (Visitor& visitor : visitors_) {
    if (visitor.gone || visitor.channel) continue;
    if (now < visitor.handshake.deadline()) break;
    leave(visitor);
    --half_open_;
  }
  if (now >= fails_at_) {
    fails_at_ = SocketClock::time_point::max();
    if (!ready_) fail(Status(Code::timeout, missing()));
  }
}

// "3 of 8 ranks have not joined in time: 2, 5, 6"
std::string RootService::missing() const {
  std::string list;
  size_t count = 0;
  bool any_absent = linked_ < ranks_ && members_.size() < ranks_;
  for (Rank rank = 0; rank < ranks_; ++rank) {
    uint32_t index = index_of_[rank];
    if (index != k_nobody && (any_absent || members_[index].linked)) continue;
    if (++count > k_max_listed) continue;
    std::string name = index == k_nobody ? std::to_string(rank) : members_[index].name;
    list += (list.empty() ? "" : ", ") + name;
  }
  if (count > k_max_listed) list += " and " + std::to_string(count - k_max_listed) + " more";
  std::string told = std::to_string(count) + " of " + std::to_string(ranks_) + " ranks have not " +
                     (any_absent ? "joined" : "reached their parent") + " in time: " + list;
  if (any_absent && !refusal_.ok()) {
    told += "; " + std::to_string(refusals_) +
            (refusals_ == 1 ? " connection was" : " connections were") +
            " refused: " + refusal_.message();
  }
  return told;
}

}  // namespace

Key bootstrap_key(const Key& secret) { return derive_key(secret, "bootstrap"); }

Status start_root_service(Fd listener, const Key& secret, SocketClock::duration idle_timeout,
                          bool persistent) {
  auto service =
      std::make_unique<RootService>(std::move(listener), secret, idle_timeout, persistent);
  TUTTI_RETURN_IF_ERROR(service->start());
  Result<std::thread> thread = start_thread([owned = std::move(service)] { owned->run(); });
  if (thread) thread->detach();
  return thread.status();
}

}  // namespace tutti
