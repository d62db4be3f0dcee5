// Groups: what a thread calls between ncclGroupStart and ncclGroupEnd runs together at the
// outermost end. Each communicator's part is one task; tasks of different communicators run at the
// same time on their lanes, so that one thread can drive all ranks of a communicator without
// waiting for itself.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "src/nccl/comm.h"

namespace tutti::nccl {

class Group {
 public:
  // Of the calling thread.
  static Group& mine();
  static bool open();  // cheap

  void start();
  // At the outermost end: runs everything. in_progress when a communicator with blocking = 0 has
  // part in it. After an error in a call of the group nothing runs, and that error is returned.
  Status end();
  // Ends the group without running anything.
  Status drop();
  // Seconds that the calls gathered so far would take: those of a communicator one after the other,
  // its transfers together, communicators at the same time.
  Result<double> estimate() const;

  void add(ncclComm_t handle, const std::shared_ptr<Comm>& comm, const Operation& operation);
  // Something else on the lane of `comm`: `body` waits for the communicator to be ready unless it
  // is what makes it ready. `cancel` is called instead when the group fails.
  void add(const std::shared_ptr<Comm>& comm, bool waits_for_start, std::function<Status()> body,
           std::function<void(const Status&)> cancel = nullptr);
  // After everything else, whether or not the group failed.
  void add_last(std::function<Status()> body);
  // A call of the group failed; returns `status`.
  Status fail(const Status& status);

 private:
  struct Task {
    std::shared_ptr<Comm> comm;
    ncclComm_t handle = nullptr;  // of operations
    std::vector<Operation> operations;
    bool waits_for_start = true;
    std::function<Status()> body;
    std::function<void(const Status&)> cancel;
  };
  struct Content {
    std::vector<Task> tasks;
    std::vector<std::function<Status()>> last;
    Status error;
  };
  static Status run(Content content);
  static Status enqueue_device_part(std::vector<Task>& tasks);

  Content content_;
};

}  // namespace tutti::nccl
