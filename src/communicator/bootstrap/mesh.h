// Mesh: runs the council of one rank among processes. Direct authenticated connections between any
// two ranks, made when there is a letter to carry, on one thread that sleeps until then.
//
// What counts as certain that a rank is gone: its host refuses connections to its listener (or
// somebody else listens there now), or an authenticated connection ends. Silence, a route that is
// down or a connection that times out does not.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "src/base/auth.h"
#include "src/communicator/bootstrap/channel.h"
#include "src/communicator/bootstrap/council.h"

namespace tutti {

class Mesh {
 public:
  struct Options {
    Rank rank = 0;
    Key key{};
    uint32_t plan_format = 0;
    Fd listener;
    std::vector<Address> addresses;  // by rank
  };
  static Result<std::unique_ptr<Mesh>> start(Options options);
  ~Mesh();

  // Runs `act` on the council and sends what it says.
  void consult(const std::function<void(Council&)>& act);
  // Blocks until done(council), asked after every event, or the deadline: then false.
  bool await(const std::function<bool(Council&)>& done, SocketDeadline deadline);
  const std::string* revoked() const { return revoked_.load(std::memory_order_acquire); }

 private:
  struct Line {  // one connection
    Fd fd;       // until `channel` owns it
    std::optional<Handshake> handshake;
    std::optional<Channel> channel;
    std::optional<Rank> peer;  // dialled, or authenticated
    std::string name;
    bool connecting = false;
    bool over = false;
    int descriptor() const { return channel ? channel->fd() : fd.get(); }
  };
  struct Peer {
    Line* line = nullptr;  // what letters go out on
    std::deque<Encoded> waiting;
    SocketDeadline dial_at{};
  };

  explicit Mesh(Options options);
  void run();
  SocketDeadline collect_polls(std::vector<pollfd>* polls) const;
  void deliver();
  void dial(Rank rank);
  void dial_waiting();
  void accept_all();
  void step(Line& line);
  void greet(Line& line);
  void converse(Line& line);
  void end(Line& line, const Status& why);
  void lost(Rank rank);
  void notify();
  void wake() const;
  void leave();
  Hello hello() const;
  std::string name_of(Rank rank) const;

  Options options_;
  const uint32_t ranks_;
  const pid_t owner_;  // a forked child has no such thread
  Fd wake_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  Council council_;
  std::atomic<const std::string*> revoked_{nullptr};  // into council_
  std::vector<Peer> peers_;
  std::list<Line> lines_;
  SocketDeadline accept_at_{};  // after running out of descriptors
  std::thread thread_;
};

}  // namespace tutti
