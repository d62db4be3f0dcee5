// Tree: one rank's place in the tree of control connections, and the collective calls on it.
//
// A rank has one parent and at most k_tree_arity children (the top has none above it). Blobs are
// gathered up and broadcast down; errors flood along every link but the one they came from. Nothing
// here runs on a thread of its own: whoever calls moves the frames. post_error(), posted_error()
// and progress() may be called from any thread, also while another one blocks in a collective.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "src/communicator/bootstrap/bootstrap.h"
#include "src/communicator/bootstrap/channel.h"
#include "src/communicator/bootstrap/mesh.h"

namespace tutti {

struct Link {
  Rank rank = 0;
  std::string name;  // "rank 3 (10.0.0.2:4711)"
  Channel channel;
  bool left = false;  // said goodbye
  bool lost = false;
  std::deque<Frame> inbox;  // frames of collectives that are not due yet
};

class Tree : public Bootstrap {
 public:
  Tree(Rank rank, uint32_t ranks);
  ~Tree() override;

  Result<std::vector<std::string>> all_gather(const std::string& mine,
                                              SocketDeadline deadline) override;
  Status barrier(SocketDeadline deadline) override;
  void post_error(const std::string& record) override;
  std::optional<std::string> posted_error() override;
  Status progress() override;
  PackedAddress address() const override;
  Status convene(const std::vector<PackedAddress>& addresses) override;
  void consult(const std::function<void(Council&)>& act) override;
  bool await(const std::function<bool(Council&)>& done, SocketDeadline deadline) override;
  const std::string* revoked() const override;
  std::vector<Rank> lost() override;
  size_t ticket_bytes() const override;
  Result<std::string> found(const Key& key, const BootstrapOptions& options) override;
  Result<std::unique_ptr<Bootstrap>> enter(std::string_view ticket, const Key& key,
                                           const BootstrapOptions& options) override;

  // --- for join(), before the tree is complete and known to anybody else
  void set_parent(Rank rank, const std::string& name, Fd fd);
  void add_child(Rank rank, const std::string& name, Fd fd);
  size_t children() const { return children_.size(); }
  // Where the council of this rank will be reached.
  void set_listener(Fd listener, const Key& key, uint32_t plan_format);
  bool has_listener() const { return static_cast<bool>(listener_); }
  void append_polls(std::vector<pollfd>* polls) const;
  // Moves frames; the first failure.
  Status pump();
  // ready has come from above (or, at the top, tell_ready() was called): passes it on.
  bool ready();
  void tell_ready();
  // Tells every link why the job is over.
  void break_off(const Status& why);

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct Kind {
    FrameType up;
    FrameType down;
  };

  size_t max_frame() const;
  template <class Visit>
  void each_link(Visit visit);
  void pump_links();
  void receive_from(Link& link);
  void dispatch(Link& link, Frame frame);
  void broke(const Status& why, const Link* from);
  void flood(const Encoded& frame, const Link* except);
  Status interruption() const;  // why no collective can go on
  Status wait_until(Lock& lock, SocketDeadline deadline, const std::function<bool()>& done,
                    const std::function<std::string()>& late);
  Status wait_for_frame(Lock& lock, Link& link, FrameType type, SocketDeadline deadline);
  Status flush_all(Lock& lock, SocketDeadline deadline);
  Result<std::string> exchange(Kind kind, std::string contribution, SocketDeadline deadline);
  Result<std::string> complete(const std::string& gathered) const;
  Result<std::vector<std::string>> split(std::string_view all) const;

  const Rank rank_;
  const uint32_t ranks_;
  const pid_t owner_;  // a forked child says nothing to anybody
  Fd listener_;        // until the mesh has it
  Key council_key_{};
  uint32_t plan_format_ = 0;
  std::unique_ptr<Mesh> mesh_;
  std::mutex mutex_;
  std::optional<Link> parent_;
  std::vector<std::unique_ptr<Link>> children_;
  uint32_t sequence_ = 0;
  bool ready_ = false;
  Status broken_;                      // first lost connection or protocol error, of any rank
  std::optional<std::string> posted_;  // first record of post_error(), of any rank
};

inline constexpr size_t k_max_blob = 64 * 1024;

}  // namespace tutti
