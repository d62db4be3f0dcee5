// PyCommunicator and PyWork: a communicator as Python holds it. Everything here runs with the GIL
// unless it says otherwise; the library's calls run without.
#pragma once

#include <unistd.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "bindings/python/src/interrupt.h"
#include "bindings/python/src/operation.h"
#include "tutti/communicator.h"
#include "tutti/stream_mark.h"

namespace tutti::python {

// An asynchronous operation and the memory it uses until it is done.
struct Outstanding {
  Work work;                       // on the progress thread, where it is or was
  std::optional<StreamMark> mark;  // on device memory, once it is enqueued: its end
  std::vector<Prepared> prepared;
  std::shared_ptr<Communicator> communicator;

  bool queued() const { return !work.done(); }
  bool done() const;
  // Code::in_progress when it is not done in time.
  Status wait_for(std::chrono::nanoseconds timeout);
};

class PyWork {
 public:
  explicit PyWork(std::shared_ptr<Outstanding> outstanding)
      : outstanding_(std::move(outstanding)) {}
  bool done() const { return outstanding_->done(); }
  // Throws the operation's error, or TimeoutError after `timeout` seconds. With a stream it is the
  // stream that waits.
  void wait(std::optional<double> timeout, nb::handle stream = nb::none());

 private:
  std::shared_ptr<Outstanding> outstanding_;
};

class PyCommunicator {
 public:
  explicit PyCommunicator(std::unique_ptr<Communicator> communicator);
  ~PyCommunicator();
  PyCommunicator(const PyCommunicator&) = delete;
  PyCommunicator& operator=(const PyCommunicator&) = delete;

  // The library's object; throws InvalidUsageError after destroy().
  const std::shared_ptr<Communicator>& get() const;
  bool valid() const { return communicator_ != nullptr; }
  // `stream`: as the call was given it. Throws TypeError for what is no stream.
  Place place(const char* call, nb::handle stream = nb::none()) const {
    return {call, get()->rank(), get()->ranks(), stream_from(stream)};
  }

  // Now, or when the open group of this thread ends.
  void run(Prepared prepared);
  PyWork start(std::vector<Prepared> prepared, bool as_group);
  // Of an operation on device memory: enqueues it now, or behind what the progress thread has.
  PyWork start_on_stream(Prepared prepared);
  // Now: all operations of a group on this communicator.
  void run_group(std::vector<Prepared> prepared);
  void barrier();

  void finalize();
  void destroy();
  void abort(const std::string& reason);
  // For the end of the interpreter: nothing may hang.
  void abandon();

  // All that live in this process.
  static std::vector<PyCommunicator*>& live();

 private:
  // Asynchronous operations that are not done yet; forgets those that are.
  bool outstanding();
  // Those among them that the progress thread has.
  bool queued() const;
  void wait_outstanding();

  std::shared_ptr<Communicator> communicator_;
  pid_t process_ = getpid();
  int calls_ = 0;  // of any thread, inside the library
  std::deque<std::shared_ptr<Outstanding>> outstanding_;

  friend class CallGuard;
};

// `with tutti.group():` - operations that begin inside run together at the end, over one or many
// communicators. Groups nest; the outermost runs them. One per thread.
class Group {
 public:
  Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  void enter();
  // `failed`: the block raised; what was collected is dropped.
  void leave(bool failed);
  // The group open on this thread, or null.
  static Group* open();
  void add(PyCommunicator& communicator, Prepared prepared);

 private:
  struct Member {
    PyCommunicator* communicator;
    nb::object keep_alive;
    std::vector<Prepared> prepared;
  };
  std::vector<Member> members_;
};

}  // namespace tutti::python
