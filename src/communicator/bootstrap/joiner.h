// Joiner: what one rank does from the unique id to its place in the tree.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "src/communicator/bootstrap/id.h"
#include "src/communicator/bootstrap/root_service.h"
#include "src/communicator/bootstrap/tree.h"

namespace tutti {

class Joiner {
 public:
  Joiner(const IdFields& id, const BootstrapOptions& options);
  Result<std::unique_ptr<Bootstrap>> run();

 private:
  // A connection to our listener that has not proven anything yet.
  struct Stranger {
    Fd fd;
    std::string name;
    Handshake handshake;
  };

  Status serve_root();    // rank 0 of an id made from an address
  Status contact_root();  // connect, prove, ask; again where that makes sense
  Status try_root();
  Status open_listener(int root_fd);
  Status request_place();
  Status link_to_parent();
  Status complete();  // children and the word that all are linked
  bool complete_yet();
  void accept_strangers();
  void greet_strangers();
  bool adopt(Stranger& stranger);
  Status listen_to_root();
  void sleep();
  Status give_up(const Status& why);
  Status ask_root(const Status& why);  // the first cause, as far as the root knows it
  Result<Channel> reach_root(SocketDeadline deadline);
  Hello hello(Meeting meeting) const;

  const IdFields id_;
  const BootstrapOptions options_;
  const Key key_;
  Address root_address_;
  Fd listener_;
  std::optional<Channel> root_;
  Placement placement_;
  bool placement_known_ = false;
  std::vector<bool> seen_;  // children, by position
  std::list<Stranger> strangers_;
  std::unique_ptr<Tree> tree_;
  bool root_ready_ = false;
  bool may_retry_ = false;
  bool cause_known_ = false;  // the root has said what went wrong first
};

}  // namespace tutti
