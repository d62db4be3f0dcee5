// The joining of one rank; see joiner.h and decision 0004.
#include "src/communicator/bootstrap/joiner.h"

#include <algorithm>
#include <cstring>
#include <thread>

namespace tutti {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds k_handshake_timeout{10};
// How long a wait is deaf to BootstrapOptions::interrupted.
constexpr milliseconds k_nap{20};
constexpr size_t k_max_strangers = 64;
constexpr int k_max_evictions = 10;

std::string rank_name(Rank rank, const Address& address) {
  return "rank " + std::to_string(rank) + " (" + address.to_string() + ")";
}

}  // namespace

Joiner::Joiner(const IdFields& id, const BootstrapOptions& options)
    : id_(id),
      options_(options),
      key_(bootstrap_key(id.secret)),
      tree_(std::make_unique<Tree>(options.rank, options.ranks)) {}

Hello Joiner::hello(Meeting meeting) const {
  Hello hello;
  hello.rank = options_.rank;
  // The root serves ids, not plans: formats are compared rank against rank.
  hello.plan_format = meeting == Meeting::tree ? options_.plan_format : 0;
  hello.data[0] = std::byte(meeting);
  std::memcpy(&hello.data[4], &placement_.index, sizeof placement_.index);
  return hello;
}

Result<std::unique_ptr<Bootstrap>> Joiner::run() {
  Result<Address> root = unpack(id_.root);
  if (!root.ok()) return root.status();
  root_address_ = *root;
  Status status = serve_root();
  if (status.ok()) status = contact_root();
  if (status.ok()) status = link_to_parent();
  if (status.ok()) status = complete();
  if (!status.ok()) return give_up(status);
  return std::unique_ptr<Bootstrap>(std::move(tree_));
}

Status Joiner::serve_root() {
  if (!id_.rank_0_listens || options_.rank != 0) return Status();
  for (;;) {
    Result<Fd> listener = listen_on(root_address_, 4096, true);
    if (listener.ok()) {
      return start_root_service(std::move(*listener), id_.secret,
                                options_.deadline - SocketClock::now());
    }
    // The previous communicator of the same address may be about to leave it.
    if (SocketClock::now() + seconds(1) > options_.deadline ||
        listener.status().message().find("in use") == std::string::npos) {
      return listener.status();
    }
    std::this_thread::sleep_for(milliseconds(20));
  }
}

Status Joiner::contact_root() {
  milliseconds pause(2);
  for (int attempt = 1;; ++attempt) {
    may_retry_ = false;
    Status status = try_root();
    if (status.ok() || !may_retry_) return status;
    // An id with a serving creator is refused for good when nobody listens; being evicted by a
    // flood of strangers is worth a few attempts. Rank 0 of an address may not have come yet.
    if (!id_.rank_0_listens && attempt >= k_max_evictions) return status;
    if (SocketClock::now() + pause >= options_.deadline) return status;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, milliseconds(100));
  }
}

Result<Channel> Joiner::reach_root(SocketDeadline deadline) {
  Result<Fd> fd = connect_to(root_address_, deadline);
  if (!fd.ok()) {
    may_retry_ = id_.rank_0_listens && fd.status().code() == Code::remote_error;
    return fd.status().with_context("cannot reach the root of the unique id");
  }
  set_no_delay(fd->get());
  Result<Authenticated> root =
      authenticate(fd->get(), Role::client, key_, hello(Meeting::root),
                   std::min(deadline, SocketClock::now() + k_handshake_timeout));
  if (!root.ok()) {
    may_retry_ = root.status().message().find("closed") != std::string::npos;
    return root.status().with_context("root of the unique id");
  }
  if (root->peer.data[0] != std::byte(Meeting::root)) {
    return Status(Code::remote_error, root_address_.to_string() + " is a rank, not the root");
  }
  return Channel(std::move(*fd), k_small_frame);
}

Status Joiner::try_root() {
  Result<Channel> root = reach_root(options_.deadline);
  if (!root.ok()) return root.status();
  TUTTI_RETURN_IF_ERROR(open_listener(root->fd()));
  root_.emplace(std::move(*root));
  return request_place();
}

// On the interface asked for; else on the address that reaches the root, which is known to be able
// to talk to the others, whatever else this host has.
Status Joiner::open_listener(int root_fd) {
  Result<Address> address = local_address(root_fd);
  if (address.ok() && !options_.interface.empty()) {
    std::string family = options_.family;
    if (family.empty()) family = address->family() == AF_INET ? "AF_INET" : "AF_INET6";
    Result<Interface> interface = select_interface(options_.interface, family);
    if (!interface.ok()) return interface.status();
    address = interface->address;
  }
  if (!address.ok()) return address.status();
  Result<Fd> listener = listen_on(address->with_port(0), static_cast<int>(k_max_strangers));
  if (!listener.ok()) return listener.status();
  listener_ = std::move(*listener);
  return Status();
}

Status Joiner::request_place() {
  Result<Address> at = local_address(listener_.get());
  if (!at.ok()) return at.status();
  auto left = std::chrono::duration_cast<milliseconds>(options_.deadline - SocketClock::now());
  JoinRequest request;
  request.ranks = options_.ranks;
  request.remaining_ms =
      static_cast<uint32_t>(std::clamp<int64_t>(left.count(), 0, 7 * 24 * 3600 * 1000));
  request.plan_format = options_.plan_format;
  request.listens = pack(*at);
  std::string payload;
  append(&payload, request);
  root_->send(encode_frame(FrameType::join, 0, payload));
  Frame frame;
  while (!root_->pop(&frame)) {
    TUTTI_RETURN_IF_ERROR(wait_for(root_->fd(), POLLIN, options_.deadline));
    Status received = root_->receive();
    if (!received.ok() && !root_->pop(&frame)) {
      may_retry_ = id_.rank_0_listens;
      return received.with_context("root of the unique id");
    }
    if (!received.ok()) break;
  }
  if (frame.type == FrameType::broken) {
    cause_known_ = true;
    return decode_status(frame.payload);
  }
  std::string_view text = frame.payload;
  if (frame.type == FrameType::place && take(&text, &placement_)) {
    seen_.assign(placement_.children, false);
    placement_known_ = true;
    return Status();
  }
  return Status(Code::remote_error, "the root of the unique id answers something else");
}

Status Joiner::link_to_parent() {
  if (placement_.index > 0) {
    Result<Address> local = local_address(root_->fd());
    Result<Address> address =
        unpack(placement_.parent, local.ok() ? local->scope_id() : uint32_t{0});
    if (!address.ok()) return address.status();
    std::string name = rank_name(placement_.parent_rank, *address);
    Result<Fd> fd = connect_to(*address, options_.deadline);
    if (!fd.ok()) {
      return fd.status().with_context(
          name + " cannot be reached from here (TUTTI_SOCKET_IFNAME chooses its interface)");
    }
    set_no_delay(fd->get());
    Result<Authenticated> parent =
        authenticate(fd->get(), Role::client, key_, hello(Meeting::tree), options_.deadline);
    if (!parent.ok()) return parent.status().with_context(name);
    if (parent->peer.rank != placement_.parent_rank) {
      return Status(Code::remote_error,
                    name + " says it is rank " + std::to_string(parent->peer.rank));
    }
    tree_->set_parent(placement_.parent_rank, name, std::move(*fd));
  }
  root_->send(encode_frame(FrameType::linked, 0, {}));
  // Only the top of the tree keeps listening to the root.
  if (placement_.index > 0) root_.reset();
  return Status();
}

Status Joiner::complete() {
  for (;;) {
    accept_strangers();
    greet_strangers();
    // Before any sleep: what the root said may have arrived together with the placement.
    TUTTI_RETURN_IF_ERROR(listen_to_root());
    TUTTI_RETURN_IF_ERROR(tree_->pump());
    if (complete_yet()) break;
    if (options_.interrupted) TUTTI_RETURN_IF_ERROR(options_.interrupted());
    if (SocketClock::now() >= options_.deadline) {
      return Status(Code::timeout, "not all ranks have joined in time");
    }
    sleep();
  }
  tree_->tell_ready();
  root_.reset();
  return Status();
}

bool Joiner::complete_yet() {
  // All children are there; the council goes on listening.
  if (listener_ && tree_->children() == placement_.children)
    tree_->set_listener(std::move(listener_), key_, options_.plan_format);
  return tree_->has_listener() && (placement_.index == 0 ? root_ready_ : tree_->ready());
}

void Joiner::sleep() {
  std::vector<pollfd> polls;
  SocketDeadline deadline = options_.deadline;
  if (options_.interrupted) deadline = std::min(deadline, SocketClock::now() + k_nap);
  tree_->append_polls(&polls);
  if (root_) polls.push_back({root_->fd(), root_->events(), 0});
  if (listener_) polls.push_back({listener_.get(), POLLIN, 0});
  for (const Stranger& stranger : strangers_) {
    polls.push_back({stranger.fd.get(), stranger.handshake.events(), 0});
    deadline = std::min(deadline, stranger.handshake.deadline());
  }
  poll_until(polls.data(), polls.size(), deadline);
}

void Joiner::accept_strangers() {
  while (listener_) {
    Result<std::optional<Accepted>> accepted = try_accept(listener_.get());
    if (!accepted.ok() || !accepted->has_value()) return;
    if (strangers_.size() >= k_max_strangers) strangers_.pop_front();
    Accepted& one = **accepted;
    std::string name = one.peer.to_string();
    set_no_delay(one.fd.get());
    strangers_.push_back({std::move(one.fd), name,
                          Handshake(Role::server, key_, hello(Meeting::tree), name,
                                    SocketClock::now() + k_handshake_timeout)});
  }
}

// Who fails to prove the secret is dropped without a word; the job goes on.
void Joiner::greet_strangers() {
  strangers_.remove_if([this](Stranger& stranger) {
    AuthState state = stranger.handshake.advance(stranger.fd.get());
    return state == AuthState::failed || (state == AuthState::done && adopt(stranger));
  });
  if (tree_->children() == placement_.children) strangers_.clear();
}

bool Joiner::adopt(Stranger& stranger) {
  const Hello& theirs = stranger.handshake.peer_hello();
  uint32_t index = 0;
  std::memcpy(&index, &theirs.data[4], sizeof index);
  uint64_t first = uint64_t{placement_.index} * k_tree_arity + 1;
  bool mine = theirs.data[0] == std::byte(Meeting::tree) && index >= first &&
              index - first < seen_.size() && !seen_[index - first];
  if (!mine) return true;
  seen_[index - first] = true;
  std::string name = "rank " + std::to_string(theirs.rank) + " (" + stranger.name + ")";
  tree_->add_child(theirs.rank, name, std::move(stranger.fd));
  return true;
}

Status Joiner::listen_to_root() {
  if (!root_) return Status();
  Status flushed = root_->flush();
  Status received = root_->receive();
  Frame frame;
  while (root_->pop(&frame)) {
    if (frame.type == FrameType::broken) {
      cause_known_ = true;
      return decode_status(frame.payload);
    }
    if (frame.type == FrameType::ready) root_ready_ = true;
  }
  if (root_ready_ || (flushed.ok() && received.ok())) return Status();
  return Status(Code::remote_error, "the process that serves the unique id at " +
                                        root_address_.to_string() +
                                        " left before all ranks had joined");
}

// Everybody who is already there learns why, and this rank learns what came first: a lost parent is
// often only the echo of an error elsewhere.
Status Joiner::give_up(const Status& why) {
  Status cause = why;
  if (!cause_known_) {
    Status mine(why.code(), "rank " + std::to_string(options_.rank) + " of " +
                                std::to_string(options_.ranks) + " cannot join: " + why.message());
    bool reached = placement_known_ || root_;
    cause = reached ? ask_root(mine) : mine;
  }
  tree_->break_off(cause);
  return cause;
}

Status Joiner::ask_root(const Status& why) {
  SocketDeadline deadline = SocketClock::now() + seconds(1);
  if (!root_) {
    Result<Channel> root = reach_root(deadline);
    if (!root.ok()) return why;
    root_.emplace(std::move(*root));
  }
  root_->send(encode_frame(FrameType::broken, 0, encode_status(why)));
  for (;;) {
    Status received = root_->receive();
    Frame frame;
    while (root_->pop(&frame)) {
      if (frame.type == FrameType::broken) return decode_status(frame.payload);
    }
    if (!received.ok() || !wait_for(root_->fd(), POLLIN, deadline).ok()) return why;
  }
}

Result<std::unique_ptr<Bootstrap>> Bootstrap::join(const UniqueId& id,
                                                   const BootstrapOptions& options) {
  if (options.ranks == 0 || options.ranks > k_max_ranks || options.rank >= options.ranks) {
    return Status(Code::invalid_argument,
                  "rank " + std::to_string(options.rank) + " of " + std::to_string(options.ranks) +
                      " ranks is out of range (at most " + std::to_string(k_max_ranks) + " ranks)");
  }
  if (options.ranks == 1) return std::move(local(1).front());
  Result<IdFields> fields = decode_id(id);
  if (!fields.ok()) return fields.status();
  return Joiner(*fields, options).run();
}

}  // namespace tutti
