#include "src/executor/exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "src/executor/lane_run.h"

namespace tutti {
namespace {

uint64_t transfer_signature(uint64_t number, const Transfer& t) {
  uint64_t h = number * 0x9e3779b97f4a7c15ULL ^ t.bytes * 0xff51afd7ed558ccdULL;
  h = (h ^ (h >> 31)) * 0xc4ceb9fe1a85ec53ULL + static_cast<uint64_t>(t.dtype) + 1;
  return h ^ (h >> 29);
}

}  // namespace

Result<std::vector<CopyToSelf>> copies_to_self(Rank self, std::span<const Transfer> transfers) {
  std::vector<const Transfer*> sends, receives;
  for (const Transfer& t : transfers)
    if (t.peer == self) (t.direction == Transfer::Direction::send ? sends : receives).push_back(&t);
  if (sends.size() != receives.size())
    return Status(Code::invalid_usage, fmt::format("rank {} has {} sends to itself and {} receives",
                                                   self, sends.size(), receives.size()));
  std::vector<CopyToSelf> copies;
  for (size_t i = 0; i < sends.size(); ++i) {
    if (sends[i]->bytes != receives[i]->bytes)
      return Status(Code::invalid_usage,
                    fmt::format("rank {} sends itself {} bytes and receives {}", self,
                                sends[i]->bytes, receives[i]->bytes));
    if (sends[i]->bytes > 0)
      copies.push_back({sends[i]->memory, receives[i]->memory, sends[i]->bytes});
  }
  return copies;
}

Result<std::vector<Exchange::Queue>> Exchange::sort(std::span<const Transfer> transfers) {
  std::vector<Queue> queues;
  std::map<std::pair<Rank, Transfer::Direction>, size_t> index;
  for (const Transfer& t : transfers) {
    if (t.peer == router_.self() || t.bytes == 0) continue;
    const auto [it, made] = index.try_emplace({t.peer, t.direction}, queues.size());
    if (made) {
      Result<Endpoint*> endpoint = router_.endpoint(t.peer, k_exchange_lane);
      if (!endpoint) return endpoint.status();
      queues.push_back({*endpoint, {}, 0, 0, 0});
    }
    queues[it->second].transfers.push_back(t);
  }
  return queues;
}

Status Exchange::run(std::span<const Transfer> transfers) {
  Result<std::vector<CopyToSelf>> copies = copies_to_self(router_.self(), transfers);
  if (!copies) return copies.status();
  for (const CopyToSelf& c : *copies) std::memmove(c.to, c.from, c.bytes);
  Result<std::vector<Queue>> sorted = sort(transfers);
  if (!sorted) return sorted.status();
  std::vector<Queue>& queues = *sorted;
  Waiter waiter(policy_, monitor_);
  while (!queues.empty()) {
    bool moved = false;
    for (size_t i = 0; i < queues.size();) {
      Status status;
      const uint64_t before = queues[i].next + queues[i].offset;
      const Io io = advance(queues[i], &status);
      if (io == Io::failed) return status;
      moved |= io == Io::done || queues[i].next + queues[i].offset != before;
      if (io == Io::done) {
        std::swap(queues[i], queues.back());
        queues.pop_back();
      } else {
        ++i;
      }
    }
    if (moved) {
      waiter.moved();
    } else {
      TUTTI_RETURN_IF_ERROR(waiter.idle(queues[0].endpoint->peer()));
    }
  }
  return {};
}

// done: the queue is through; again: something is missing.
Io Exchange::advance(Queue& queue, Status* status) {
  while (queue.next < queue.transfers.size()) {
    const Transfer& t = queue.transfers[queue.next];
    Pair& pair = pairs_[t.peer];
    const bool sending = t.direction == Transfer::Direction::send;
    const uint64_t signature = transfer_signature(sending ? pair.sent : pair.received, t);
    const Io io = sending ? send(queue, t, signature) : recv(queue, t, signature, status);
    if (io != Io::done) {
      if (status->ok()) *status = queue.endpoint->status();
      return status->ok() ? Io::again : Io::failed;
    }
    if (queue.offset < t.bytes) continue;
    ++(sending ? pair.sent : pair.received);
    ++queue.next;
    queue.offset = 0;
  }
  if (queue.by_reference > 0 && queue.endpoint->consumed() < queue.by_reference) {
    *status = queue.endpoint->status();
    return status->ok() ? Io::again : Io::failed;
  }
  return Io::done;
}

Io Exchange::send(Queue& queue, const Transfer& t, uint64_t signature) {
  Endpoint& to = *queue.endpoint;
  const uint64_t left = t.bytes - queue.offset;
  if (router_.pulls(t.peer, t.bytes)) {
    const Io io = to.send_ref(signature, t.memory, t.bytes);
    if (io == Io::done) {
      queue.offset = t.bytes;
      queue.by_reference = to.sent();
    }
    return io;
  }
  const iovec piece{t.memory + queue.offset, std::min<uint64_t>(left, router_.slot_bytes())};
  const Io io = to.send(signature, {&piece, 1});
  if (io == Io::done) queue.offset += piece.iov_len;
  return io;
}

Io Exchange::recv(Queue& queue, const Transfer& t, uint64_t signature, Status* status) {
  Endpoint& from = *queue.endpoint;
  // The sender decides between one message by reference and pieces; both fit the rest.
  const iovec rest{t.memory + queue.offset, t.bytes - queue.offset};
  uint64_t announced = 0;
  size_t bytes = 0;
  const Io io = from.recv({&rest, 1}, &announced, &bytes);
  if (io == Io::again) return io;
  if (io == Io::failed && !from.status().ok()) return io;
  if (io == Io::failed || announced != signature || bytes == 0) {
    *status = mismatch(t.peer, fmt::format("rank {} expects {} bytes of {} from it, and it sends "
                                           "another length or type",
                                           router_.self(), t.bytes, name(t.dtype)));
    return Io::failed;
  }
  queue.offset += bytes;
  return Io::done;
}

}  // namespace tutti
