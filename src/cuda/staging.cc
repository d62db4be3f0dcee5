#include "src/cuda/staging.h"

#include <algorithm>

#include "src/cuda/allocation.h"

namespace tutti::cuda {
namespace {

constexpr uint64_t k_alignment = 256;
constexpr uint64_t k_flag_bytes = 256;  // before the buffers

uint64_t up(uint64_t bytes, uint64_t to) { return (bytes + to - 1) / to * to; }

void run_job(void* job) { (*static_cast<std::function<void()>*>(job))(); }

}  // namespace

void Staging::Ticket::answer() {
  std::atomic_ref<uint32_t>(*flag_).store(1, std::memory_order_release);
}

Staging::~Staging() {
  drain();
  Scope scope(runtime_.driver(), device_.context());
  for (auto& ticket : tickets_) {
    if (ticket->finished_ != nullptr) device_.give_event(ticket->finished_);
    if (ticket->memory_ != nullptr) runtime_.driver().host_free(ticket->memory_);
  }
}

std::vector<Event> Staging::pending() {
  std::vector<Event> events;
  std::lock_guard lock(mutex_);
  for (auto& ticket : tickets_)
    if (ticket->busy_ && !ticket->captured_) events.push_back(ticket->finished_);
  return events;
}

void Staging::drain() {
  Scope scope(runtime_.driver(), device_.context());
  for (Event event : pending()) static_cast<void>(runtime_.driver().event_synchronize(event));
}

bool Staging::quiet() {
  Scope scope(runtime_.driver(), device_.context());
  RelaxedCapture relaxed(runtime_.driver());
  const std::vector<Event> events = pending();
  return std::none_of(events.begin(), events.end(), [&](Event event) {
    return runtime_.driver().event_query(event) == k_not_ready;
  });
}

Status Staging::allocate(Ticket& ticket, uint64_t bytes) {
  const Driver& driver = runtime_.driver();
  RelaxedCapture relaxed(driver);
  // Sizes grow in steps, so that calls of many sizes share tickets.
  uint64_t rounded = 4096;
  while (rounded < bytes) rounded += std::max<uint64_t>(4096, up(rounded / 2, 4096));
  void* memory = nullptr;
  TUTTI_RETURN_IF_ERROR(driver.check(
      driver.host_alloc(&memory, rounded, k_host_portable | k_host_mapped), "cuMemHostAlloc"));
  ticket.memory_ = static_cast<std::byte*>(memory);
  ticket.bytes_ = rounded;
  ticket.flag_ = static_cast<uint32_t*>(memory);
  *ticket.flag_ = 0;
  TUTTI_RETURN_IF_ERROR(driver.check(driver.host_device_pointer(&ticket.flag_on_device_, memory, 0),
                                     "cuMemHostGetDevicePointer"));
  Result<Event> event = device_.take_event();
  if (!event) return event.status();
  ticket.finished_ = *event;
  return {};
}

Result<Staging::Ticket*> Staging::prepare(Stream stream, std::vector<Buffer> buffers) {
  Result<bool> capturing = runtime_.capturing(stream);
  if (!capturing) return capturing.status();
  uint64_t bytes = k_flag_bytes;
  for (const Buffer& b : buffers) bytes += up(b.bytes, k_alignment);
  Scope scope(runtime_.driver(), device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());

  std::lock_guard lock(mutex_);
  Ticket* ticket = nullptr;
  if (!*capturing)
    for (auto& known : tickets_) {
      if (known->open_ || known->captured_ || known->bytes_ < bytes || known->bytes_ / 4 > bytes)
        continue;
      if (known->busy_ && runtime_.driver().event_query(known->finished_) != k_success) continue;
      ticket = known.get();
      break;
    }
  if (ticket == nullptr) {
    auto fresh = std::make_unique<Ticket>();
    Status status = allocate(*fresh, bytes);
    if (!status.ok()) {
      if (fresh->memory_ != nullptr) runtime_.driver().host_free(fresh->memory_);
      return status;
    }
    ticket = fresh.get();
    tickets_.push_back(std::move(fresh));
  }
  ticket->captured_ = *capturing;
  ticket->busy_ = false;
  ticket->open_ = true;
  ticket->hosts_.clear();
  std::byte* at = ticket->memory_ + k_flag_bytes;
  for (const Buffer& b : buffers) {
    ticket->hosts_.push_back(b.bytes > 0 ? at : nullptr);
    at += up(b.bytes, k_alignment);
  }
  ticket->buffers_ = std::move(buffers);
  return ticket;
}

Status Staging::follow_last(const Ticket& ticket, Stream stream) {
  std::lock_guard lock(mutex_);
  if (ticket.captured_ || last_ == nullptr || stream == last_stream_) return {};
  return runtime_.driver().check(runtime_.driver().stream_wait_event(stream, last_, 0),
                                 "cuStreamWaitEvent");
}

Status Staging::post(Ticket& ticket, Stream stream, std::function<void()> job) {
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  TUTTI_RETURN_IF_ERROR(follow_last(ticket, stream));
  for (size_t i = 0; i < ticket.buffers_.size(); ++i) {
    const Buffer& b = ticket.buffers_[i];
    if (!b.input || b.bytes == 0) continue;
    TUTTI_RETURN_IF_ERROR(driver.check(
        driver.copy_to_host(ticket.hosts_[i], b.device, b.bytes, stream), "cuMemcpyDtoHAsync"));
  }
  ticket.job_ = std::move(job);
  return driver.check(driver.launch_host(stream, run_job, &ticket.job_), "cuLaunchHostFunc");
}

Status Staging::finish(Ticket& ticket, Stream stream) {
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  StreamMemOp ops[2];
  ops[0].operation = k_wait_value_32;
  ops[0].address = ticket.flag_on_device_;
  ops[0].value = 1;
  ops[0].flags = k_wait_equal;
  ops[1].operation = k_write_value_32;  // ready for the next replay
  ops[1].address = ticket.flag_on_device_;
  ops[1].value = 0;
  TUTTI_RETURN_IF_ERROR(
      driver.check(driver.stream_memory_ops(stream, 2, ops, 0), "cuStreamBatchMemOp"));
  for (size_t i = 0; i < ticket.buffers_.size(); ++i) {
    const Buffer& b = ticket.buffers_[i];
    if (!b.output || b.bytes == 0) continue;
    TUTTI_RETURN_IF_ERROR(driver.check(
        driver.copy_to_device(b.device, ticket.hosts_[i], b.bytes, stream), "cuMemcpyHtoDAsync"));
  }
  if (!ticket.captured_)
    TUTTI_RETURN_IF_ERROR(
        driver.check(driver.event_record(ticket.finished_, stream), "cuEventRecord"));
  std::lock_guard lock(mutex_);
  ticket.busy_ = !ticket.captured_;
  ticket.open_ = false;
  if (ticket.captured_) return {};
  last_ = ticket.finished_;
  last_stream_ = stream;
  return {};
}

}  // namespace tutti::cuda
