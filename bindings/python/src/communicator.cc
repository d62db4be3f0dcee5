#include "bindings/python/src/communicator.h"

#include <fmt/format.h>

#include <algorithm>

namespace tutti::python {
namespace {

struct GroupState {
  int depth = 0;
  Group* outermost = nullptr;
};
thread_local GroupState group_state;

Status issue_all(Communicator& c, const std::vector<Prepared>& prepared) {
  TUTTI_RETURN_IF_ERROR(c.group_start());
  Status first;
  for (const Prepared& p : prepared)
    if (!p.operation.one_sided())
      if (Status s = p.operation.issue(c); !s.ok() && first.ok()) first = std::move(s);
  // Ended in any case, so that the communicator is not left inside a group.
  if (Status ended = c.group_end(); first.ok()) first = std::move(ended);
  for (const Prepared& p : prepared)
    if (p.operation.one_sided() && first.ok()) first = p.operation.issue(c);
  return first;
}

}  // namespace

// --- PyWork

bool Outstanding::done() const {
  return !queued() && (!mark || mark->query().code() != Code::in_progress);
}

Status Outstanding::wait_for(std::chrono::nanoseconds timeout) {
  TUTTI_RETURN_IF_ERROR(work.wait_for(timeout));
  if (!mark) return {};
  TUTTI_RETURN_IF_ERROR(mark->wait_for(timeout));
  return communicator->error();  // what came after the call had returned
}

void PyWork::wait(std::optional<double> timeout, nb::handle stream) {
  if (timeout && *timeout < 0) throw nb::value_error("wait: timeout is negative");
  Outstanding& o = *outstanding_;
  Status status;
  void* const waiting = stream_from(stream);
  const auto wait_for = [&o, waiting](std::chrono::nanoseconds patience) {
    return waiting != nullptr ? o.work.wait_for(patience) : o.wait_for(patience);
  };
  const auto patience =
      timeout ? std::chrono::nanoseconds(static_cast<int64_t>(std::max(*timeout, 1e-9) * 1e9))
              : std::chrono::nanoseconds(0);
  const std::shared_ptr<Outstanding> keep = outstanding_;
  const bool ended = wait_interruptibly(
      wait_for, patience, [&] { o.communicator->abort("interrupted by a signal of the program"); },
      &status);
  if (!ended) {
    PyErr_SetString(PyExc_TimeoutError, "wait: the operation has not finished in time");
    throw nb::python_error();
  }
  if (waiting != nullptr && status.ok()) {
    if (!o.mark) throw_value_error({"wait", "stream"}, "must be None: host memory has no streams");
    status = o.mark->before(waiting);
    if (status.ok()) status = o.communicator->error();
  } else {
    o.prepared.clear();
  }
  throw_if_error(status, o.communicator->rank());
}

// --- PyCommunicator

// Counts the calls of all threads, so that destroy() does not pull the ground from under one.
class CallGuard {
 public:
  explicit CallGuard(PyCommunicator& c) : c_(c) { ++c_.calls_; }
  ~CallGuard() { --c_.calls_; }

 private:
  PyCommunicator& c_;
};

std::vector<PyCommunicator*>& PyCommunicator::live() {
  static std::vector<PyCommunicator*> all;
  return all;
}

PyCommunicator::PyCommunicator(std::unique_ptr<Communicator> communicator)
    : communicator_(std::move(communicator)) {
  communicator_->on_wait(handle_signals_while_waiting);
  live().push_back(this);
}

PyCommunicator::~PyCommunicator() {
  std::erase(live(), this);
  abandon();
}

void PyCommunicator::abandon() {
  if (communicator_ == nullptr) return;
  if (getpid() != process_) {
    // A forked child has neither the threads nor the connections: leave everything as it lies.
    static_cast<void>(new std::shared_ptr<Communicator>(std::move(communicator_)));
    static_cast<void>(new std::deque<std::shared_ptr<Outstanding>>(std::move(outstanding_)));
    communicator_.reset();
    return;
  }
  if (outstanding()) communicator_->abort("given up with operations outstanding");
  {
    nb::gil_scoped_release without_gil;
    static_cast<void>(communicator_->finalize());
  }
  outstanding_.clear();
  std::shared_ptr<Communicator> last = std::move(communicator_);
  communicator_.reset();
  nb::gil_scoped_release without_gil;
  last.reset();
}

const std::shared_ptr<Communicator>& PyCommunicator::get() const {
  if (communicator_ == nullptr)
    throw_status(Status(Code::invalid_usage, "the communicator was destroyed"));
  return communicator_;
}

bool PyCommunicator::outstanding() {
  while (!outstanding_.empty() && outstanding_.front()->done()) {
    outstanding_.front()->prepared.clear();
    outstanding_.pop_front();
  }
  return !outstanding_.empty();
}

bool PyCommunicator::queued() const {
  return std::any_of(outstanding_.begin(), outstanding_.end(), [](auto& o) { return o->queued(); });
}

void PyCommunicator::run(Prepared prepared) {
  get();
  if (Group* group = Group::open()) return group->add(*this, std::move(prepared));
  if (queued()) {
    // Behind what is outstanding, in the order of issue.
    std::vector<Prepared> one;
    one.push_back(std::move(prepared));
    return start(std::move(one), false).wait(std::nullopt);
  }
  CallGuard guard(*this);
  throw_if_error(BlockingCall::run([&] { return prepared.operation.issue(*communicator_); }),
                 communicator_->rank());
}

void PyCommunicator::barrier() { run({}); }

void PyCommunicator::run_group(std::vector<Prepared> prepared) {
  get();
  if (queued()) return start(std::move(prepared), true).wait(std::nullopt);
  CallGuard guard(*this);
  throw_if_error(BlockingCall::run([&] { return issue_all(*communicator_, prepared); }),
                 communicator_->rank());
}

PyWork PyCommunicator::start(std::vector<Prepared> prepared, bool as_group) {
  get();
  outstanding();
  auto o = std::make_shared<Outstanding>();
  o->prepared = std::move(prepared);
  o->communicator = communicator_;
  if (as_group) {
    // The progress thread reads the operations where they lie: `o` outlives the work (below).
    o->work = communicator_->submit(
        [list = &o->prepared](Communicator& c) { return issue_all(c, *list); });
  } else {
    o->work = communicator_->submit(
        [operation = o->prepared.at(0).operation](Communicator& c) { return operation.issue(c); });
  }
  outstanding_.push_back(o);
  return PyWork(std::move(o));
}

PyWork PyCommunicator::start_on_stream(Prepared prepared) {
  get();
  outstanding();
  auto o = std::make_shared<Outstanding>();
  o->prepared.push_back(std::move(prepared));
  o->communicator = communicator_;
  const auto enqueue = [o = o.get()]() -> Status {
    const Operation& operation = o->prepared[0].operation;
    TUTTI_RETURN_IF_ERROR(operation.issue(*o->communicator));
    const void* memory = operation.recv != nullptr ? operation.recv : operation.send;
    if (memory == nullptr) return {};  // empty arrays: done
    Result<StreamMark> mark = StreamMark::make(operation.stream, memory);
    if (mark) o->mark = *mark;
    return mark.status();
  };
  if (queued()) {
    // `o` outlives the work, as above.
    o->work = communicator_->submit([enqueue](Communicator&) { return enqueue(); });
  } else {
    CallGuard guard(*this);
    throw_if_error(BlockingCall::run(enqueue), communicator_->rank());
  }
  outstanding_.push_back(o);
  return PyWork(std::move(o));
}

void PyCommunicator::wait_outstanding() {
  Status ignored;  // whoever holds the handle learns of it
  while (outstanding()) {
    const std::shared_ptr<Outstanding> front = outstanding_.front();
    wait_interruptibly([&](std::chrono::nanoseconds time) { return front->wait_for(time); }, {},
                       [&] { communicator_->abort("interrupted by a signal of the program"); },
                       &ignored);
  }
}

void PyCommunicator::finalize() {
  get();
  wait_outstanding();
  CallGuard guard(*this);
  nb::gil_scoped_release without_gil;
  static_cast<void>(communicator_->finalize());
}

void PyCommunicator::destroy() {
  if (communicator_ == nullptr) return;
  if (calls_ > 0)
    throw_status(
        Status(Code::invalid_usage,
               "destroy: another thread is in a call of this communicator; abort it first"));
  if (getpid() == process_ && communicator_->error().ok()) wait_outstanding();
  abandon();
}

void PyCommunicator::abort(const std::string& reason) {
  const std::shared_ptr<Communicator> c = get();
  nb::gil_scoped_release without_gil;
  c->abort(reason);
}

// --- Group

Group* Group::open() { return group_state.outermost; }

void Group::enter() {
  if (group_state.depth++ == 0) group_state.outermost = this;
}

void Group::add(PyCommunicator& communicator, Prepared prepared) {
  for (Member& m : members_)
    if (m.communicator == &communicator) {
      m.prepared.push_back(std::move(prepared));
      return;
    }
  members_.push_back({&communicator, nb::find(communicator), {}});
  members_.back().prepared.push_back(std::move(prepared));
}

void Group::leave(bool failed) {
  if (group_state.depth == 0)
    throw_status(Status(Code::invalid_usage, "group end without a group start"));
  if (failed && group_state.outermost != nullptr) group_state.outermost->members_.clear();
  if (--group_state.depth > 0) return;
  std::vector<Member> members;
  if (group_state.outermost != nullptr) members.swap(group_state.outermost->members_);
  group_state.outermost = nullptr;
  if (members.size() == 1)
    return members[0].communicator->run_group(std::move(members[0].prepared));
  // Many communicators: each on its own progress thread, so that none waits for another.
  std::vector<PyWork> works;
  for (Member& m : members) works.push_back(m.communicator->start(std::move(m.prepared), true));
  std::optional<nb::python_error> first;
  for (PyWork& work : works) {
    try {
      work.wait(std::nullopt);
    } catch (nb::python_error& e) {
      if (!first) first.emplace(std::move(e));
    }
  }
  if (first) throw nb::python_error(std::move(*first));
}

}  // namespace tutti::python
