// Connections and the thread of the mesh; see mesh.h.
#include "src/communicator/bootstrap/mesh.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "src/base/thread.h"
#include "src/communicator/bootstrap/root_service.h"

namespace tutti {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds k_handshake_timeout{10};
// Until the next attempt, where a rank could not be reached but may be alive.
constexpr milliseconds k_redial_after{50};
constexpr milliseconds k_accept_after{100};
// How long leaving waits for letters that are still on their way into the sockets.
constexpr milliseconds k_farewell{200};

bool says(const Status& status, const std::string& text) {
  return status.message().find(text) != std::string::npos;
}

}  // namespace

Mesh::Mesh(Options options)
    : options_(std::move(options)),
      ranks_(static_cast<uint32_t>(options_.addresses.size())),
      owner_(::getpid()),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      council_(options_.rank, ranks_),
      peers_(ranks_) {}

Result<std::unique_ptr<Mesh>> Mesh::start(Options options) {
  std::unique_ptr<Mesh> mesh(new Mesh(std::move(options)));
  if (!mesh->wake_) return Status(Code::system_error, "no eventfd: " + errno_text(errno));
  // Since the tree stands, whole jobs may knock at once.
  ::listen(mesh->options_.listener.get(), 4096);
  Result<std::thread> thread = start_thread([raw = mesh.get()] { raw->run(); });
  if (!thread) return thread.status();
  mesh->thread_ = std::move(*thread);
  return mesh;
}

Mesh::~Mesh() {
  if (::getpid() != owner_) {  // nothing here is the child's
    thread_.detach();
    return;
  }
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
  if (thread_.joinable()) thread_.join();
  leave();
}

// The last letters go out, and what came in is read: unread bytes would turn the close into a
// reset, which can overtake them.
void Mesh::leave() {
  const SocketDeadline deadline = SocketClock::now() + k_farewell;
  for (Line& line : lines_) {
    if (!line.channel || line.over) continue;
    while (!line.channel->flushed() && line.channel->flush().ok() && !line.channel->flushed() &&
           wait_for(line.channel->fd(), POLLOUT, deadline).ok()) {
    }
    char scrap[4096];
    while (::recv(line.channel->fd(), scrap, sizeof scrap, MSG_DONTWAIT) > 0) {
    }
  }
}

void Mesh::wake() const {
  const uint64_t one = 1;
  static_cast<void>(!::write(wake_.get(), &one, sizeof one));
}

void Mesh::notify() {
  if (council_.revoked()) revoked_.store(&*council_.revoked(), std::memory_order_release);
  changed_.notify_all();
}

void Mesh::consult(const std::function<void(Council&)>& act) {
  std::lock_guard lock(mutex_);
  act(council_);
  deliver();
  notify();
  wake();  // there may be new connections to poll
}

bool Mesh::await(const std::function<bool(Council&)>& done, SocketDeadline deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return done(council_); });
}

// --- the thread

void Mesh::run() {
  std::vector<pollfd> polls;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const SocketDeadline deadline = collect_polls(&polls);
    lock.unlock();
    poll_until(polls.data(), polls.size(), deadline);
    uint64_t scrap = 0;
    static_cast<void>(!::read(wake_.get(), &scrap, sizeof scrap));
    lock.lock();
    accept_all();
    for (Line& line : lines_) step(line);
    deliver();
    dial_waiting();
    lines_.remove_if([](const Line& line) { return line.over; });
    notify();
  }
}

SocketDeadline Mesh::collect_polls(std::vector<pollfd>* polls) const {
  SocketDeadline deadline = SocketClock::now() + seconds(3600);
  polls->clear();
  polls->push_back({wake_.get(), POLLIN, 0});
  if (accept_at_ <= SocketClock::now()) {
    polls->push_back({options_.listener.get(), POLLIN, 0});
  } else {
    deadline = std::min(deadline, accept_at_);
  }
  for (const Line& line : lines_) {
    const short events = line.channel      ? line.channel->events()
                         : line.connecting ? static_cast<short>(POLLOUT)
                                           : line.handshake->events();
    polls->push_back({line.descriptor(), events, 0});
    if (line.handshake) deadline = std::min(deadline, line.handshake->deadline());
  }
  for (const Peer& peer : peers_)
    if (!peer.waiting.empty() && peer.line == nullptr) deadline = std::min(deadline, peer.dial_at);
  return deadline;
}

// What the council says goes to the connections; a rank that cannot be dialled may be found gone,
// which makes the council say more.
void Mesh::deliver() {
  for (;;) {
    std::vector<Council::Letter> letters = council_.take_letters();
    if (letters.empty()) return;
    for (Council::Letter& letter : letters) {
      if (council_.gone().contains(letter.to)) continue;
      Peer& peer = peers_[letter.to];
      Encoded frame = encode_frame(FrameType::letter, 0, letter.text);
      if (peer.line != nullptr && peer.line->channel) {
        peer.line->channel->send(std::move(frame));
      } else {
        peer.waiting.push_back(std::move(frame));
        if (peer.line == nullptr && peer.dial_at <= SocketClock::now()) dial(letter.to);
      }
    }
  }
}

Hello Mesh::hello() const {
  Hello hello;
  hello.rank = options_.rank;
  hello.plan_format = options_.plan_format;
  hello.data[0] = std::byte(Meeting::council);
  return hello;
}

std::string Mesh::name_of(Rank rank) const {
  return "rank " + std::to_string(rank) + " (" + options_.addresses[rank].to_string() + ")";
}

void Mesh::dial(Rank rank) {
  Result<Fd> fd = connect_start(options_.addresses[rank]);
  if (!fd) {
    if (says(fd.status(), errno_text(ECONNREFUSED))) return lost(rank);
    peers_[rank].dial_at = SocketClock::now() + k_redial_after;
    return;
  }
  set_no_delay(fd->get());
  Line& line = lines_.emplace_back();
  line.fd = std::move(*fd);
  line.peer = rank;
  line.name = name_of(rank);
  line.connecting = true;
  line.handshake.emplace(Role::client, options_.key, hello(), line.name,
                         SocketClock::now() + k_handshake_timeout);
  peers_[rank].line = &line;
}

void Mesh::dial_waiting() {
  for (Rank r = 0; r < ranks_; ++r) {
    Peer& peer = peers_[r];
    if (!peer.waiting.empty() && peer.line == nullptr && peer.dial_at <= SocketClock::now())
      dial(r);
  }
  deliver();
}

void Mesh::accept_all() {
  while (accept_at_ <= SocketClock::now()) {
    Result<std::optional<Accepted>> accepted = try_accept(options_.listener.get());
    if (!accepted) accept_at_ = SocketClock::now() + k_accept_after;
    if (!accepted || !accepted->has_value()) return;
    // Beyond what the ranks themselves may need, the oldest stranger goes.
    const auto stranger = [](const Line& line) { return line.handshake && !line.peer; };
    if (std::count_if(lines_.begin(), lines_.end(), stranger) > 64 + ptrdiff_t{ranks_})
      std::find_if(lines_.begin(), lines_.end(), stranger)->over = true;
    Line& line = lines_.emplace_back();
    line.fd = std::move((*accepted)->fd);
    line.name = (*accepted)->peer.to_string();
    set_no_delay(line.fd.get());
    line.handshake.emplace(Role::server, options_.key, hello(), line.name,
                           SocketClock::now() + k_handshake_timeout);
  }
}

void Mesh::step(Line& line) {
  if (line.over) return;
  if (line.handshake) greet(line);
  if (!line.over && line.channel) converse(line);
}

void Mesh::greet(Line& line) {
  if (line.connecting) {
    const Status connected = connect_error(line.fd.get(), options_.addresses[*line.peer]);
    if (connected.code() == Code::in_progress) return;
    if (!connected.ok()) return end(line, connected);
    line.connecting = false;
  }
  const AuthState state = line.handshake->advance(line.fd.get());
  if (state == AuthState::working) return;
  if (state == AuthState::failed) return end(line, line.handshake->status());
  const Hello& theirs = line.handshake->peer_hello();
  const bool council = theirs.data[0] == std::byte(Meeting::council) && theirs.rank < ranks_ &&
                       theirs.rank != options_.rank &&
                       line.peer.value_or(theirs.rank) == theirs.rank;
  if (!council) return end(line, Status(Code::remote_error, line.name + " is somebody else"));
  line.peer = theirs.rank;
  line.handshake.reset();
  line.channel.emplace(std::move(line.fd), k_small_frame + size_t{16} * ranks_);
  Peer& peer = peers_[theirs.rank];
  if (peer.line == nullptr) peer.line = &line;
  if (peer.line != &line) return;
  for (Encoded& frame : peer.waiting) line.channel->send(std::move(frame));
  peer.waiting.clear();
}

void Mesh::converse(Line& line) {
  const Status flushed = line.channel->flush();
  const Status received = line.channel->receive();
  Frame frame;
  while (line.channel->pop(&frame))
    if (frame.type == FrameType::letter) council_.receive(*line.peer, frame.payload);
  if (!received.ok()) return end(line, received);
  if (!flushed.ok()) return end(line, flushed);
}

// What the end of a connection says about the peer.
void Mesh::end(Line& line, const Status& why) {
  line.over = true;
  if (!line.peer) return;
  const Rank rank = *line.peer;
  Peer& peer = peers_[rank];
  if (peer.line == &line) {
    peer.line = nullptr;
    peer.dial_at = SocketClock::now() + k_redial_after;
  }
  const bool closed = says(why, "closed");
  const bool greeted = line.channel.has_value();
  const bool refused = says(why, errno_text(ECONNREFUSED));
  // Before the handshake a live rank may close on us (too many strangers); after it, never.
  const bool another =
      !greeted && !closed && !refused && why.code() == Code::remote_error && says(why, "secret");
  if (refused || another || (greeted && closed)) lost(rank);
}

void Mesh::lost(Rank rank) {
  Peer& peer = peers_[rank];
  peer.waiting.clear();
  if (peer.line != nullptr) peer.line->over = true;
  peer.line = nullptr;
  council_.lost(rank);
}

}  // namespace tutti
