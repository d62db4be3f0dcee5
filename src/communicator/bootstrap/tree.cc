// Links, floods and the two collectives of the control tree; see tree.h.
#include "src/communicator/bootstrap/tree.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace tutti {
namespace {

using std::chrono::milliseconds;

// A record of post_error(), as the transports' ErrorRecord, is a sentence or two.
constexpr size_t k_max_record = 4096;
// How long a blocked call sleeps at most before it looks at what other threads have posted.
constexpr milliseconds k_nap{250};

}  // namespace

Tree::Tree(Rank rank, uint32_t ranks) : rank_(rank), ranks_(ranks), owner_(::getpid()) {}

Tree::~Tree() {
  if (::getpid() != owner_) return;
  Lock lock(mutex_);
  flood(encode_frame(FrameType::goodbye, rank_, {}), nullptr);
  each_link([](Link& link) {
    if (link.channel.closed()) return;
    // Unread bytes would turn the close into a reset, and a reset can overtake the goodbye.
    char scrap[4096];
    while (::recv(link.channel.fd(), scrap, sizeof scrap, MSG_DONTWAIT) > 0) {
    }
  });
}

template <class Visit>
void Tree::each_link(Visit visit) {
  if (parent_) visit(*parent_);
  for (std::unique_ptr<Link>& child : children_) visit(*child);
}

size_t Tree::max_frame() const { return (k_max_blob + 8) * size_t{ranks_}; }

void Tree::set_parent(Rank rank, const std::string& name, Fd fd) {
  parent_.emplace(Link{rank, name, Channel(std::move(fd), max_frame()), false, false, {}});
}

void Tree::add_child(Rank rank, const std::string& name, Fd fd) {
  children_.push_back(std::make_unique<Link>(
      Link{rank, name, Channel(std::move(fd), max_frame()), false, false, {}}));
}

void Tree::append_polls(std::vector<pollfd>* polls) const {
  auto add = [&](const Link& link) {
    if (!link.channel.closed()) polls->push_back({link.channel.fd(), link.channel.events(), 0});
  };
  if (parent_) add(*parent_);
  for (const std::unique_ptr<Link>& child : children_) add(*child);
}

Status Tree::pump() {
  Lock lock(mutex_);
  pump_links();
  return broken_;
}

void Tree::pump_links() {
  each_link([this](Link& link) { receive_from(link); });
}

void Tree::receive_from(Link& link) {
  if (link.channel.closed()) return;
  Status flushed = link.channel.flush();
  Status received = link.channel.receive();
  Frame frame;
  while (link.channel.pop(&frame)) dispatch(link, std::move(frame));
  if (received.ok() && flushed.ok()) return;
  link.channel.close();
  link.lost = true;
  if (link.left) return;
  bool closed = received.code() == Code::remote_error || flushed.code() == Code::remote_error;
  const Status& why = received.ok() ? flushed : received;
  broke(Status(Code::remote_error,
               closed ? "lost the control connection to " + link.name + ": " + why.message()
                      : link.name + ": " + why.message()),
        &link);
}

void Tree::dispatch(Link& link, Frame frame) {
  switch (frame.type) {
    case FrameType::gather_up:
    case FrameType::gather_down:
    case FrameType::barrier_up:
    case FrameType::barrier_down:
      link.inbox.push_back(std::move(frame));
      return;
    case FrameType::ready:
      ready_ = true;
      return;
    case FrameType::goodbye:
      link.left = true;
      return;
    case FrameType::broken:
      return broke(decode_status(frame.payload), &link);
    case FrameType::error:
      if (posted_ || frame.payload.size() > k_max_record) return;
      posted_ = frame.payload;
      return flood(encode_frame(FrameType::error, 0, frame.payload), &link);
    case FrameType::join:
    case FrameType::place:
    case FrameType::linked:
    case FrameType::letter:
      break;
  }
  broke(Status(Code::remote_error, link.name + " sent a frame that has no place in the tree"),
        nullptr);
}

void Tree::broke(const Status& why, const Link* from) {
  if (!broken_.ok()) return;
  broken_ = why;
  flood(encode_frame(FrameType::broken, 0, encode_status(why)), from);
}

void Tree::flood(const Encoded& frame, const Link* except) {
  each_link([&](Link& link) {
    if (&link != except && !link.channel.closed()) link.channel.send(frame);
  });
}

void Tree::post_error(const std::string& record) {
  Lock lock(mutex_);
  if (!posted_) posted_ = record.substr(0, k_max_record);
  flood(encode_frame(FrameType::error, 0, record.substr(0, k_max_record)), nullptr);
}

std::optional<std::string> Tree::posted_error() {
  Lock lock(mutex_);
  pump_links();
  return posted_;
}

Status Tree::progress() { return pump(); }

bool Tree::ready() {
  Lock lock(mutex_);
  return ready_;
}

void Tree::tell_ready() {
  Lock lock(mutex_);
  ready_ = true;
  for (std::unique_ptr<Link>& child : children_) {
    child->channel.send(encode_frame(FrameType::ready, 0, {}));
  }
}

void Tree::break_off(const Status& why) {
  Lock lock(mutex_);
  broken_ = why;
  flood(encode_frame(FrameType::broken, 0, encode_status(why)), nullptr);
}

Status Tree::interruption() const {
  if (!broken_.ok()) return broken_;
  if (posted_) return Status(Code::remote_error, "an error was posted: " + *posted_);
  return Status();
}

std::vector<Rank> Tree::lost() {
  Lock lock(mutex_);
  std::vector<Rank> ranks;
  each_link([&](const Link& link) {
    if (link.lost && !link.left) ranks.push_back(link.rank);
  });
  return ranks;
}

// --- the council

void Tree::set_listener(Fd listener, const Key& key, uint32_t plan_format) {
  listener_ = std::move(listener);
  council_key_ = derive_key(key, "council");
  plan_format_ = plan_format;
}

PackedAddress Tree::address() const {
  Result<Address> at = local_address(listener_.get());
  return at ? pack(*at) : PackedAddress{};
}

Status Tree::convene(const std::vector<PackedAddress>& addresses) {
  Mesh::Options options{rank_, council_key_, plan_format_, std::move(listener_), {}};
  const Result<Address> mine = local_address(options.listener.get());
  if (!mine) return mine.status();
  for (Rank r = 0; r < addresses.size(); ++r) {
    Result<Address> at = unpack(addresses[r], mine->scope_id());
    if (!at) return at.status().with_context("address of rank " + std::to_string(r));
    options.addresses.push_back(*at);
  }
  Result<std::unique_ptr<Mesh>> mesh = Mesh::start(std::move(options));
  if (mesh) mesh_ = std::move(*mesh);
  return mesh.status();
}

void Tree::consult(const std::function<void(Council&)>& act) {
  if (mesh_) mesh_->consult(act);
}

bool Tree::await(const std::function<bool(Council&)>& done, SocketDeadline deadline) {
  return mesh_ && mesh_->await(done, deadline);
}

const std::string* Tree::revoked() const { return mesh_ ? mesh_->revoked() : nullptr; }

// Sleeps in poll() without the lock, so that other threads can post and look.
Status Tree::wait_until(Lock& lock, SocketDeadline deadline, const std::function<bool()>& done,
                        const std::function<std::string()>& late) {
  std::vector<pollfd> polls;
  for (;;) {
    pump_links();
    if (done()) return Status();
    TUTTI_RETURN_IF_ERROR(interruption());
    auto now = SocketClock::now();
    if (now >= deadline) return Status(Code::timeout, late());
    polls.clear();
    append_polls(&polls);
    lock.unlock();
    poll_until(polls.data(), polls.size(), std::min(deadline, now + k_nap));
    lock.lock();
  }
}

Status Tree::wait_for_frame(Lock& lock, Link& link, FrameType type, SocketDeadline deadline) {
  auto arrived = [&] { return !link.inbox.empty() || link.left; };
  TUTTI_RETURN_IF_ERROR(wait_until(lock, deadline, arrived, [&] {
    return "nothing came in time from " + link.name + " or the ranks behind it";
  }));
  if (link.inbox.empty()) {
    TUTTI_RETURN_IF_ERROR(interruption());  // why it left, if it said so
    return Status(Code::remote_error, link.name + " has left the communicator");
  }
  const Frame& head = link.inbox.front();
  if (head.type != type || head.number != sequence_) {
    return Status(Code::invalid_usage, link.name + " is in another bootstrap call (#" +
                                           std::to_string(head.number) + ") than rank " +
                                           std::to_string(rank_) + " (#" +
                                           std::to_string(sequence_) + ")");
  }
  return Status();
}

Status Tree::flush_all(Lock& lock, SocketDeadline deadline) {
  auto flushed = [&] {
    bool all = true;
    each_link([&](Link& link) { all = all && (link.channel.closed() || link.channel.flushed()); });
    return all;
  };
  if (flushed()) return Status();
  return wait_until(lock, deadline, flushed, [] {
    return std::string("the ranks behind this one do not read their control connections");
  });
}

// One round of the tree: contributions are concatenated on the way up; the top makes of them what
// goes down to everybody.
Result<std::string> Tree::exchange(Kind kind, std::string contribution, SocketDeadline deadline) {
  Lock lock(mutex_);
  TUTTI_RETURN_IF_ERROR(interruption());
  ++sequence_;
  for (std::unique_ptr<Link>& child : children_) {
    TUTTI_RETURN_IF_ERROR(wait_for_frame(lock, *child, kind.up, deadline));
    contribution += child->inbox.front().payload;
    child->inbox.pop_front();
  }
  std::string all;
  if (parent_) {
    parent_->channel.send(encode_frame(kind.up, sequence_, contribution));
    TUTTI_RETURN_IF_ERROR(wait_for_frame(lock, *parent_, kind.down, deadline));
    all = std::move(parent_->inbox.front().payload);
    parent_->inbox.pop_front();
  } else if (kind.up == FrameType::gather_up) {
    Result<std::string> completed = complete(contribution);
    if (!completed.ok()) {
      broke(completed.status(), nullptr);
      return completed.status();
    }
    all = std::move(*completed);
  }
  if (!children_.empty()) {
    Encoded frame = encode_frame(kind.down, sequence_, all);
    for (std::unique_ptr<Link>& child : children_) child->channel.send(frame);
    TUTTI_RETURN_IF_ERROR(flush_all(lock, deadline));
  }
  return all;
}

// From {rank, size, bytes}* in any order to {size, bytes}* in rank order.
Result<std::string> Tree::complete(const std::string& gathered) const {
  std::vector<std::optional<std::string_view>> blobs(ranks_);
  std::string_view rest = gathered;
  while (!rest.empty()) {
    uint32_t rank = 0;
    uint32_t size = 0;
    bool sound = take(&rest, &rank) && take(&rest, &size) && size <= rest.size() && rank < ranks_ &&
                 !blobs[rank];
    if (!sound) return Status(Code::remote_error, "damaged blobs in a bootstrap gather");
    blobs[rank] = rest.substr(0, size);
    rest.remove_prefix(size);
  }
  std::string all;
  all.reserve(gathered.size());
  for (Rank rank = 0; rank < ranks_; ++rank) {
    if (!blobs[rank]) {
      return Status(Code::remote_error,
                    "nothing from rank " + std::to_string(rank) + " in a bootstrap gather");
    }
    append(&all, static_cast<uint32_t>(blobs[rank]->size()));
    all.append(*blobs[rank]);
  }
  return all;
}

Result<std::vector<std::string>> Tree::split(std::string_view all) const {
  std::vector<std::string> blobs;
  blobs.reserve(ranks_);
  uint32_t size = 0;
  while (blobs.size() < ranks_ && take(&all, &size) && size <= all.size()) {
    blobs.emplace_back(all.substr(0, size));
    all.remove_prefix(size);
  }
  if (blobs.size() == ranks_ && all.empty()) return blobs;
  return Status(Code::remote_error, "damaged blobs came down the bootstrap tree");
}

Result<std::vector<std::string>> Tree::all_gather(const std::string& mine,
                                                  SocketDeadline deadline) {
  if (mine.size() > k_max_blob) {
    return Status(Code::invalid_argument, "a blob of " + std::to_string(mine.size()) +
                                              " bytes, at most " + std::to_string(k_max_blob));
  }
  std::string contribution;
  append(&contribution, rank_);
  append(&contribution, static_cast<uint32_t>(mine.size()));
  contribution += mine;
  Result<std::string> all =
      exchange({FrameType::gather_up, FrameType::gather_down}, std::move(contribution), deadline);
  if (!all.ok()) return all.status();
  return split(*all);
}

Status Tree::barrier(SocketDeadline deadline) {
  return exchange({FrameType::barrier_up, FrameType::barrier_down}, {}, deadline).status();
}

}  // namespace tutti
