#include "src/nccl/group.h"

#include <algorithm>

#include "src/nccl/device_calls.h"
#include "src/nccl/errors.h"

namespace tutti::nccl {
namespace {

thread_local uint32_t t_depth = 0;  // apart from the Group, so that asking needs no constructor

// Where the tasks of a group report; outlives the group while communicators with blocking = 0 work.
struct Outcome {
  std::mutex mutex;
  std::condition_variable changed;
  size_t waiting = 0;  // tasks of blocking communicators that are not done
  std::vector<Status> statuses;
};

}  // namespace

// Operations on device buffers are enqueued from here, all communicators together; what is left of
// the tasks runs on the host.
Status Group::enqueue_device_part(std::vector<Task>& tasks) {
  std::vector<DeviceTask> on_device;
  for (Task& task : tasks) {
    auto& all = task.operations;
    const auto host_end = std::stable_partition(all.begin(), all.end(),
                                                [](const Operation& op) { return !op.on_device; });
    if (host_end == all.end()) continue;
    on_device.push_back({task.comm, {host_end, all.end()}});
    all.erase(host_end, all.end());
  }
  if (on_device.empty()) return {};
  std::erase_if(tasks, [](const Task& t) { return t.handle != nullptr && t.operations.empty(); });
  return enqueue_on_devices(std::move(on_device));
}

Group& Group::mine() {
  thread_local Group group;
  return group;
}

bool Group::open() { return t_depth > 0; }

void Group::start() { ++t_depth; }

Status Group::end() {
  if (t_depth == 0) return invalid_usage("there is no open group (ncclGroupStart) in this thread");
  if (--t_depth > 0) return {};
  return run(std::exchange(content_, {}));
}

Status Group::drop() {
  if (t_depth == 0) return invalid_usage("there is no open group (ncclGroupStart) in this thread");
  if (--t_depth > 0) return {};
  Content content = std::exchange(content_, {});
  const Status error = content.error;
  if (content.error.ok()) content.error = invalid_usage("the group was only simulated");
  static_cast<void>(run(std::move(content)));
  return error;
}

Result<double> Group::estimate() const {
  double longest = 0;
  for (const Task& task : content_.tasks) {
    const Result<double> seconds = task.comm->estimate(task.operations);
    if (!seconds) return seconds;
    longest = std::max(longest, *seconds);
  }
  return longest;
}

void Group::add(ncclComm_t handle, const std::shared_ptr<Comm>& comm, const Operation& operation) {
  auto& tasks = content_.tasks;
  const auto own =
      std::find_if(tasks.rbegin(), tasks.rend(), [&](const Task& t) { return t.comm == comm; });
  if (own != tasks.rend() && own->handle == handle) {
    own->operations.push_back(operation);
    return;
  }
  tasks.push_back({comm, handle, {operation}, true, nullptr, nullptr});
}

void Group::add(const std::shared_ptr<Comm>& comm, bool waits_for_start,
                std::function<Status()> body, std::function<void(const Status&)> cancel) {
  content_.tasks.push_back(
      {comm, nullptr, {}, waits_for_start, std::move(body), std::move(cancel)});
}

void Group::add_last(std::function<Status()> body) { content_.last.push_back(std::move(body)); }

Status Group::fail(const Status& status) {
  if (content_.error.ok()) content_.error = status;
  return status;
}

Status Group::run(Content content) {
  Status result = content.error;
  if (!result.ok())
    for (Task& task : content.tasks)
      if (task.cancel) task.cancel(result);
  if (!result.ok()) content.tasks.clear();

  bool unfinished = false;
  if (result.ok()) {
    std::vector<std::shared_ptr<Comm>> comms_of_group;
    for (Task& task : content.tasks) {
      task.comm->count_messages(task.operations);
      comms_of_group.push_back(task.comm);
    }
    result = enqueue_device_part(content.tasks);
    unfinished = result.code() == Code::in_progress;
    if (unfinished) result = {};
    if (!result.ok()) {
      content.tasks.clear();
      for (const std::shared_ptr<Comm>& comm : comms_of_group) comm->leave_messages_out();
    }
  }

  // Destroy and abort wait for lanes; the pins make them wait for what runs in this thread as well.
  std::vector<CommTable::Pin> pins;
  for (Task& task : content.tasks) {
    if (task.handle == nullptr) continue;
    pins.push_back(comms().pin(task.handle));
    task.body = [comm = task.comm.get(), operations = std::move(task.operations)]() mutable {
      return comm->execute(operations);
    };
  }

  auto outcome = std::make_shared<Outcome>();
  outcome->statuses.resize(content.tasks.size());
  for (const Task& task : content.tasks) outcome->waiting += task.comm->blocking();
  for (size_t i = 0; i < content.tasks.size(); ++i) {
    Task& task = content.tasks[i];
    const bool blocking = task.comm->blocking();
    auto done = [outcome, i, blocking](const Status& status) {
      std::lock_guard lock(outcome->mutex);
      outcome->statuses[i] = status;
      outcome->waiting -= blocking;
      outcome->changed.notify_all();
    };
    // The last one in this thread, unless its lane has something to do first.
    const bool here = i + 1 == content.tasks.size() && blocking && task.comm->lane().idle() &&
                      (task.comm->started() || !task.waits_for_start);
    if (here) {
      done(task.body());
    } else if (task.waits_for_start) {
      task.comm->post(std::move(task.body), done);
    } else {
      task.comm->lane().post([body = std::move(task.body), done] { done(body()); });
    }
  }
  {
    std::unique_lock lock(outcome->mutex);
    outcome->changed.wait(lock, [&] { return outcome->waiting == 0; });
    for (size_t i = 0; i < content.tasks.size(); ++i) {
      if (!content.tasks[i].comm->blocking()) {
        unfinished = true;
      } else if (result.ok()) {
        result = outcome->statuses[i];
      }
    }
  }
  pins.clear();
  for (const auto& body : content.last)
    if (Status status = body(); result.ok()) result = std::move(status);
  return result.ok() && unfinished ? in_progress() : result;
}

}  // namespace tutti::nccl
