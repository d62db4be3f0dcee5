// Bootstrap among the threads of one process: the same interface on a mutex and a condition
// variable, without sockets, for Communicator::create_local and for jobs of one rank.
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>

#include "src/communicator/bootstrap/bootstrap.h"
#include "src/communicator/bootstrap/tree.h"

namespace tutti {
namespace {

using Blobs = std::vector<std::string>;
using Deadline = std::chrono::steady_clock::time_point;

// A rank's place at the council, which is called in when somebody first consults it.
struct Seat {
  std::unique_ptr<Council> council;
  std::condition_variable changed;
  std::atomic<const std::string*> revoked{nullptr};  // into council
  bool left = false;
};

// What the ranks share. A round of all_gather collects into `collecting`; the last rank publishes
// it, and everybody copies from the published one without the lock.
struct Room {
  explicit Room(uint32_t n) : ranks(n), collecting(n), present(n, false), seats(n) {}

  const uint32_t ranks;
  std::mutex mutex;
  std::condition_variable changed;
  Blobs collecting;
  std::vector<bool> present;
  uint32_t arrived = 0;
  uint64_t round = 0;
  std::shared_ptr<const Blobs> published;
  std::optional<std::string> posted;
  Status broken;
  std::vector<Seat> seats;
  bool convened = false;
  std::deque<std::pair<Rank, Council::Letter>> letters;  // with who sent them
  // Descendants that somebody has founded and not all have entered, by ticket.
  struct Descendant {
    std::shared_ptr<Room> room;
    Key key{};
    uint32_t expected = 0;
  };
  uint64_t next_ticket = 1;
  std::map<uint64_t, Descendant> descendants;
};

class LocalBootstrap : public Bootstrap {
 public:
  LocalBootstrap(Rank rank, std::shared_ptr<Room> room) : rank_(rank), room_(std::move(room)) {}
  ~LocalBootstrap() override;

  Result<Blobs> all_gather(const std::string& mine, Deadline deadline) override;
  Status barrier(Deadline deadline) override { return meet({}, deadline).status(); }
  void post_error(const std::string& record) override;
  std::optional<std::string> posted_error() override;
  Status progress() override;
  void consult(const std::function<void(Council&)>& act) override;
  bool await(const std::function<bool(Council&)>& done, Deadline deadline) override;
  const std::string* revoked() const override {
    return room_->seats[rank_].revoked.load(std::memory_order_acquire);
  }
  size_t ticket_bytes() const override { return sizeof(uint64_t); }
  Result<std::string> found(const Key& key, const BootstrapOptions& options) override;
  Result<std::unique_ptr<Bootstrap>> enter(std::string_view ticket, const Key& key,
                                           const BootstrapOptions& options) override;

 private:
  Result<std::shared_ptr<const Blobs>> meet(const std::string& mine, Deadline deadline);
  Status interruption() const;
  std::string absent() const;
  Council& council();
  void inform(Rank rank, const std::function<void(Council&)>& news);
  void deliver();

  const Rank rank_;
  const std::shared_ptr<Room> room_;
};

LocalBootstrap::~LocalBootstrap() {
  std::lock_guard lock(room_->mutex);
  Seat& seat = room_->seats[rank_];
  seat.left = true;
  seat.council.reset();
  if (room_->convened) {
    for (Rank r = 0; r < room_->ranks; ++r)
      if (room_->seats[r].council != nullptr) inform(r, [&](Council& c) { c.lost(rank_); });
    deliver();
  }
  // Leaving between rounds is in order; ranks that already wait in one would wait for ever.
  if (room_->arrived == 0 || !room_->broken.ok()) return;
  room_->broken =
      Status(Code::remote_error, "rank " + std::to_string(rank_) + " has left the communicator");
  room_->changed.notify_all();
}

// --- the council: all under the room's lock, letters handed over at once

Council& LocalBootstrap::council() {
  if (!room_->convened) {
    room_->convened = true;
    for (Rank r = 0; r < room_->ranks; ++r)
      if (!room_->seats[r].left)
        room_->seats[r].council = std::make_unique<Council>(r, room_->ranks);
    for (Rank gone = 0; gone < room_->ranks; ++gone)
      for (Rank r = 0; r < room_->ranks && room_->seats[gone].left; ++r)
        if (room_->seats[r].council != nullptr) room_->seats[r].council->lost(gone);
  }
  return *room_->seats[rank_].council;
}

void LocalBootstrap::inform(Rank rank, const std::function<void(Council&)>& news) {
  Seat& seat = room_->seats[rank];
  news(*seat.council);
  if (seat.council->revoked())
    seat.revoked.store(&*seat.council->revoked(), std::memory_order_release);
  seat.changed.notify_all();
  for (Council::Letter& letter : seat.council->take_letters())
    room_->letters.push_back({rank, std::move(letter)});
}

void LocalBootstrap::deliver() {
  while (!room_->letters.empty()) {
    const auto item = std::move(room_->letters.front());
    room_->letters.pop_front();
    const Rank from = item.first;
    const Council::Letter& letter = item.second;
    const bool there = room_->seats[letter.to].council != nullptr;
    if (there) {
      inform(letter.to, [&](Council& c) { c.receive(from, letter.text); });
    } else if (room_->seats[from].council != nullptr) {
      inform(from, [&](Council& c) { c.lost(letter.to); });
    }
  }
}

void LocalBootstrap::consult(const std::function<void(Council&)>& act) {
  std::lock_guard lock(room_->mutex);
  council();
  inform(rank_, act);
  deliver();
}

bool LocalBootstrap::await(const std::function<bool(Council&)>& done, Deadline deadline) {
  std::unique_lock lock(room_->mutex);
  Council& mine = council();
  return room_->seats[rank_].changed.wait_until(lock, deadline, [&] { return done(mine); });
}

Status LocalBootstrap::interruption() const {
  if (!room_->broken.ok()) return room_->broken;
  if (room_->posted) return Status(Code::remote_error, "an error was posted: " + *room_->posted);
  return Status();
}

std::string LocalBootstrap::absent() const {
  std::string list;
  uint32_t count = 0;
  for (Rank rank = 0; rank < room_->ranks; ++rank) {
    if (room_->present[rank] || ++count > 16) continue;
    list += (list.empty() ? "" : ", ") + std::to_string(rank);
  }
  return "rank " + std::to_string(rank_) + ": " + std::to_string(count) +
         " ranks have not come in time: " + list + (count > 16 ? ", ..." : "");
}

Result<std::shared_ptr<const Blobs>> LocalBootstrap::meet(const std::string& mine,
                                                          Deadline deadline) {
  Room& room = *room_;
  std::unique_lock lock(room.mutex);
  TUTTI_RETURN_IF_ERROR(interruption());
  const uint64_t round = room.round;
  room.collecting[rank_] = mine;
  room.present[rank_] = true;
  if (++room.arrived == room.ranks) {
    room.published = std::make_shared<const Blobs>(std::move(room.collecting));
    room.collecting.assign(room.ranks, {});
    room.present.assign(room.ranks, false);
    room.arrived = 0;
    ++room.round;
    room.changed.notify_all();
    return room.published;
  }
  auto over = [&] { return room.round != round || !interruption().ok(); };
  bool in_time = room.changed.wait_until(lock, deadline, over);
  // Nobody can enter the next round before all have left this one: `published` is still ours.
  if (room.round != round) return room.published;
  if (!in_time && room.broken.ok()) {
    room.broken = Status(Code::timeout, absent());
    room.changed.notify_all();
  }
  return interruption();
}

Result<Blobs> LocalBootstrap::all_gather(const std::string& mine, Deadline deadline) {
  if (mine.size() > k_max_blob) {
    return Status(Code::invalid_argument, "a blob of " + std::to_string(mine.size()) +
                                              " bytes, at most " + std::to_string(k_max_blob));
  }
  Result<std::shared_ptr<const Blobs>> all = meet(mine, deadline);
  if (!all.ok()) return all.status();
  return Blobs(**all);
}

void LocalBootstrap::post_error(const std::string& record) {
  std::lock_guard lock(room_->mutex);
  if (!room_->posted) room_->posted = record;
  room_->changed.notify_all();
}

std::optional<std::string> LocalBootstrap::posted_error() {
  std::lock_guard lock(room_->mutex);
  return room_->posted;
}

Status LocalBootstrap::progress() {
  std::lock_guard lock(room_->mutex);
  return room_->broken;
}

Result<std::string> LocalBootstrap::found(const Key& key, const BootstrapOptions& options) {
  std::lock_guard lock(room_->mutex);
  const uint64_t number = room_->next_ticket++;
  room_->descendants[number] = {std::make_shared<Room>(options.ranks), key, options.ranks};
  std::string ticket;
  append(&ticket, number);
  return ticket;
}

Result<std::unique_ptr<Bootstrap>> LocalBootstrap::enter(std::string_view ticket, const Key& key,
                                                         const BootstrapOptions& options) {
  uint64_t number = 0;
  if (!take(&ticket, &number)) return Status(Code::internal_error, "a ticket of the wrong size");
  std::lock_guard lock(room_->mutex);
  auto found = room_->descendants.find(number);
  if (found == room_->descendants.end() || found->second.key != key ||
      found->second.room->ranks != options.ranks)
    return Status(Code::invalid_usage,
                  "rank " + std::to_string(rank_) + " has no ticket for this descendant");
  std::shared_ptr<Room> room = found->second.room;
  if (--found->second.expected == 0) room_->descendants.erase(found);
  return std::unique_ptr<Bootstrap>(std::make_unique<LocalBootstrap>(options.rank, room));
}

}  // namespace

std::vector<std::unique_ptr<Bootstrap>> Bootstrap::local(uint32_t ranks) {
  auto room = std::make_shared<Room>(ranks);
  std::vector<std::unique_ptr<Bootstrap>> all;
  for (Rank rank = 0; rank < ranks; ++rank) {
    all.push_back(std::make_unique<LocalBootstrap>(rank, room));
  }
  return all;
}

}  // namespace tutti
