// The public face: every method says what the call is and hands it to the Impl.
#include "tutti/communicator.h"

#include <fmt/format.h>

#include <cstring>
#include <thread>

#include "src/communicator/device_rank.h"
#include "src/communicator/environment.h"
#include "src/communicator/impl.h"

namespace tutti {
Reduction Reduction::premul_sum(DType dtype, const void* scalar) {
  Reduction r(ReduceOp::premul_sum);
  std::memcpy(&r.scalar_bits, scalar, size_of(dtype));
  return r;
}

Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Communicator::~Communicator() = default;

Result<std::unique_ptr<Communicator>> Communicator::create(const UniqueId& id, Rank rank,
                                                           uint32_t ranks, const Config& config) {
  if (ranks == 0 || rank >= ranks)
    return Status(Code::invalid_argument, fmt::format("rank {} of {} ranks", rank, ranks));
  Result<std::unique_ptr<Impl>> impl = Impl::join(id, rank, ranks, config);
  if (!impl) return impl.status();
  return std::make_unique<Communicator>(std::move(*impl));
}

Result<std::unique_ptr<Communicator>> Communicator::from_environment() {
  Result<Config> config = Config::from_environment();
  if (!config) return config.status();
  Result<LaunchInfo> launch = launch_from_environment();
  if (!launch) return launch.status();
  Result<std::unique_ptr<Communicator>> made =
      create(launch->id, launch->rank, launch->ranks, *config);
  if (made && launch->weak_secret)
    (*made)->impl_->warn(fmt::format(
        "{} gave no secret: the job's own, made from its names, keeps jobs apart but no attacker "
        "out; set TUTTI_SECRET_FILE or TUTTI_SECRET",
        launch->launcher));
  return made;
}

Result<std::vector<std::unique_ptr<Communicator>>> Communicator::create_local(
    uint32_t ranks, const Config& config) {
  return create_local(std::vector<Config>(ranks, config));
}

Result<std::vector<std::unique_ptr<Communicator>>> Communicator::create_local(
    const std::vector<Config>& configs) {
  const auto ranks = static_cast<uint32_t>(configs.size());
  if (ranks == 0) return Status(Code::invalid_argument, "a communicator of 0 ranks");
  std::vector<std::unique_ptr<Bootstrap>> bootstraps = Bootstrap::local(ranks);
  std::vector<std::unique_ptr<Communicator>> communicators(ranks);
  std::vector<Status> statuses(ranks);
  Key key;
  fill_random(key);
  std::vector<std::thread> threads;
  threads.reserve(ranks);
  for (Rank r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      Result<std::unique_ptr<Impl>> impl = Impl::connect(
          std::move(bootstraps[r]), r, ranks, key, configs[r], after(configs[r].init_timeout));
      if (impl) {
        communicators[r] = std::make_unique<Communicator>(std::move(*impl));
      } else {
        statuses[r] = impl.status();
      }
    });
  for (std::thread& t : threads) t.join();
  for (const Status& s : statuses) TUTTI_RETURN_IF_ERROR(s);
  return communicators;
}

Rank Communicator::rank() const { return impl_->rank(); }
Result<double> Communicator::estimate(Collective collective, size_t count, DType dtype, Rank root) {
  return impl_->estimate({collective, nullptr, nullptr, count, dtype, {}, root});
}
uint32_t Communicator::ranks() const { return impl_->ranks(); }

// --- collectives

Status Communicator::all_reduce(const void* send, void* recv, size_t count, DType dtype,
                                Reduction op) {
  return impl_->run({Collective::all_reduce, send, recv, count, dtype, op, 0});
}
Status Communicator::reduce_scatter(const void* send, void* recv, size_t count, DType dtype,
                                    Reduction op) {
  return impl_->run({Collective::reduce_scatter, send, recv, count, dtype, op, 0});
}
Status Communicator::all_gather(const void* send, void* recv, size_t count, DType dtype) {
  return impl_->run({Collective::all_gather, send, recv, count, dtype, {}, 0});
}
Status Communicator::broadcast(const void* send, void* recv, size_t count, DType dtype, Rank root) {
  return impl_->run({Collective::broadcast, send, recv, count, dtype, {}, root});
}
Status Communicator::reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op,
                            Rank root) {
  return impl_->run({Collective::reduce, send, recv, count, dtype, op, root});
}
Status Communicator::all_to_all(const void* send, void* recv, size_t count, DType dtype) {
  return impl_->run({Collective::all_to_all, send, recv, count, dtype, {}, 0});
}
Status Communicator::gather(const void* send, void* recv, size_t count, DType dtype, Rank root) {
  return impl_->run({Collective::gather, send, recv, count, dtype, {}, root});
}
Status Communicator::scatter(const void* send, void* recv, size_t count, DType dtype, Rank root) {
  return impl_->run({Collective::scatter, send, recv, count, dtype, {}, root});
}
Status Communicator::barrier() { return impl_->run({}); }

namespace {

Status check_blocks(Rank rank, uint32_t ranks, const void* send,
                    std::span<const size_t> send_counts, std::span<const size_t> send_offsets,
                    const void* recv, std::span<const size_t> recv_counts,
                    std::span<const size_t> recv_offsets, DType dtype) {
  auto bad = [&](std::string why) {
    return Status(Code::invalid_argument, fmt::format("rank {}: all_to_all_v: {}", rank, why));
  };
  if (!valid(dtype)) return bad(fmt::format("unknown dtype {}", static_cast<int>(dtype)));
  for (auto span : {send_counts, send_offsets, recv_counts, recv_offsets})
    if (span.size() != ranks)
      return bad(fmt::format("{} counts or offsets for {} ranks", span.size(), ranks));
  const size_t element = size_of(dtype);
  for (Rank p = 0; p < ranks; ++p) {
    for (size_t n : {send_counts[p], send_offsets[p], recv_counts[p], recv_offsets[p]})
      if (n > SIZE_MAX / 4 / element) return bad(fmt::format("count or offset {} overflows", n));
    if ((send_counts[p] > 0 && send == nullptr) || (recv_counts[p] > 0 && recv == nullptr))
      return bad(fmt::format("a null buffer for rank {}", p));
  }
  return {};
}

}  // namespace

Status Communicator::all_to_all_v(const void* send, std::span<const size_t> send_counts,
                                  std::span<const size_t> send_offsets, void* recv,
                                  std::span<const size_t> recv_counts,
                                  std::span<const size_t> recv_offsets, DType dtype) {
  TUTTI_RETURN_IF_ERROR(check_blocks(rank(), ranks(), send, send_counts, send_offsets, recv,
                                     recv_counts, recv_offsets, dtype));
  const size_t element = size_of(dtype);
  std::vector<Transfer> transfers;
  const auto add = [&](Transfer::Direction direction, Rank p, std::byte* all, size_t offset,
                       size_t count) {
    if (count > 0) {
      transfers.push_back({direction, p, all + offset * element, count * element, dtype});
    } else if (p == rank()) {  // pairs up with itself in the copy to self; the buffer may be null
      transfers.push_back({direction, p, all, 0, dtype});
    }
  };
  auto* out = const_cast<std::byte*>(static_cast<const std::byte*>(send));
  auto* in = static_cast<std::byte*>(recv);
  for (Rank p = 0; p < ranks(); ++p) {
    add(Transfer::Direction::send, p, out, send_offsets[p], send_counts[p]);
    add(Transfer::Direction::recv, p, in, recv_offsets[p], recv_counts[p]);
  }
  return impl_->run_transfers(std::move(transfers));
}

namespace {

Status check_transfer(std::string_view what, Rank rank, uint32_t ranks, const void* buffer,
                      size_t count, DType dtype, Rank peer) {
  auto bad = [&](std::string why) {
    return Status(Code::invalid_argument, fmt::format("rank {}: {}: {}", rank, what, why));
  };
  if (!valid(dtype)) return bad(fmt::format("unknown dtype {}", static_cast<int>(dtype)));
  if (peer >= ranks) return bad(fmt::format("peer {} of {} ranks", peer, ranks));
  if (count > SIZE_MAX / 2 / size_of(dtype)) return bad(fmt::format("count {} overflows", count));
  if (count > 0 && buffer == nullptr) return bad("the buffer is null");
  return {};
}

}  // namespace

Status Communicator::send(const void* buffer, size_t count, DType dtype, Rank peer) {
  TUTTI_RETURN_IF_ERROR(check_transfer("send", rank(), ranks(), buffer, count, dtype, peer));
  return impl_->run_transfers({{Transfer::Direction::send, peer,
                                const_cast<std::byte*>(static_cast<const std::byte*>(buffer)),
                                count * size_of(dtype), dtype}});
}
Status Communicator::recv(void* buffer, size_t count, DType dtype, Rank peer) {
  TUTTI_RETURN_IF_ERROR(check_transfer("recv", rank(), ranks(), buffer, count, dtype, peer));
  return impl_->run_transfers({{Transfer::Direction::recv, peer, static_cast<std::byte*>(buffer),
                                count * size_of(dtype), dtype}});
}
Status Communicator::group_start() { return impl_->group_start(); }
Status Communicator::group_end() { return impl_->group_end(); }

// --- one-sided

Result<Window> Communicator::register_window(void* memory, size_t bytes) {
  return impl_->register_window(memory, bytes);
}
Status Communicator::deregister_window(const Window& window) {
  return impl_->deregister_window(window);
}
Status Communicator::put_signal(const void* data, size_t bytes, Rank peer, const Window& window,
                                size_t offset, uint64_t signal) {
  return impl_->put_signal(data, bytes, peer, window, offset, signal);
}
Status Communicator::signal(Rank peer, uint64_t signal) { return impl_->signal(peer, signal); }
Status Communicator::wait_signals(std::span<const SignalCount> counts) {
  return impl_->wait_signals(counts);
}
Status Communicator::open_one_sided() { return impl_->open_one_sided(); }
// --- on device buffers

OnStream Communicator::on_stream(void* stream) { return OnStream(*this, stream); }

namespace {

DeviceOperation on(void* stream, Collective collective, const void* send, void* recv, size_t count,
                   DType dtype, Reduction reduction = {}, Rank root = 0) {
  DeviceOperation op;
  op.collective = collective;
  op.send = send;
  op.recv = recv;
  op.count = count;
  op.dtype = dtype;
  op.reduction = reduction;
  op.root = root;
  op.stream = static_cast<cuda::Stream>(stream);
  return op;
}

}  // namespace

Status OnStream::all_reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op) {
  return communicator_.impl().run_on_device(
      on(stream_, Collective::all_reduce, send, recv, count, dtype, op));
}
Status OnStream::reduce_scatter(const void* send, void* recv, size_t count, DType dtype,
                                Reduction op) {
  return communicator_.impl().run_on_device(
      on(stream_, Collective::reduce_scatter, send, recv, count, dtype, op));
}
Status OnStream::all_gather(const void* send, void* recv, size_t count, DType dtype) {
  return communicator_.impl().run_on_device(
      on(stream_, Collective::all_gather, send, recv, count, dtype));
}
Status OnStream::broadcast(const void* send, void* recv, size_t count, DType dtype, Rank root) {
  return communicator_.impl().run_on_device(
      on(stream_, Collective::broadcast, send, recv, count, dtype, {}, root));
}
Status OnStream::reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op,
                        Rank root) {
  return communicator_.impl().run_on_device(
      on(stream_, Collective::reduce, send, recv, count, dtype, op, root));
}
Status OnStream::all_to_all(const void* send, void* recv, size_t count, DType dtype) {
  return communicator_.impl().run_on_device(
      on(stream_, Collective::all_to_all, send, recv, count, dtype));
}
Status OnStream::gather(const void* send, void* recv, size_t count, DType dtype, Rank root) {
  return communicator_.impl().run_on_device(
      on(stream_, Collective::gather, send, recv, count, dtype, {}, root));
}
Status OnStream::scatter(const void* send, void* recv, size_t count, DType dtype, Rank root) {
  return communicator_.impl().run_on_device(
      on(stream_, Collective::scatter, send, recv, count, dtype, {}, root));
}

Status OnStream::send(const void* buffer, size_t count, DType dtype, Rank peer) {
  TUTTI_RETURN_IF_ERROR(check_transfer("send", communicator_.rank(), communicator_.ranks(), buffer,
                                       count, dtype, peer));
  DeviceOperation op = on(stream_, Collective::send_recv, buffer, nullptr, count, dtype, {}, peer);
  op.sends = true;
  return communicator_.impl().run_on_device(op);
}
Status OnStream::recv(void* buffer, size_t count, DType dtype, Rank peer) {
  TUTTI_RETURN_IF_ERROR(check_transfer("recv", communicator_.rank(), communicator_.ranks(), buffer,
                                       count, dtype, peer));
  return communicator_.impl().run_on_device(
      on(stream_, Collective::send_recv, nullptr, buffer, count, dtype, {}, peer));
}

Status OnStream::all_to_all_v(const void* send, std::span<const size_t> send_counts,
                              std::span<const size_t> send_offsets, void* recv,
                              std::span<const size_t> recv_counts,
                              std::span<const size_t> recv_offsets, DType dtype) {
  TUTTI_RETURN_IF_ERROR(check_blocks(communicator_.rank(), communicator_.ranks(), send, send_counts,
                                     send_offsets, recv, recv_counts, recv_offsets, dtype));
  const size_t element = size_of(dtype);
  TUTTI_RETURN_IF_ERROR(communicator_.group_start());
  Status status;
  for (Rank p = 0; p < communicator_.ranks() && status.ok(); ++p) {
    if (send_counts[p] > 0)
      status = this->send(static_cast<const std::byte*>(send) + send_offsets[p] * element,
                          send_counts[p], dtype, p);
    if (recv_counts[p] > 0 && status.ok())
      status = this->recv(static_cast<std::byte*>(recv) + recv_offsets[p] * element, recv_counts[p],
                          dtype, p);
  }
  Status ended = communicator_.group_end();
  return status.ok() ? ended : status;
}

Status OnStream::after(void* other) {
  Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process();
  if (!runtime) return runtime.status();
  return (*runtime)->follow(static_cast<cuda::Stream>(stream_), static_cast<cuda::Stream>(other));
}

// --- asynchronous forms

Work Communicator::submit(std::function<Status(Communicator&)> body) {
  return impl_->submit([this, body = std::move(body)] { return body(*this); });
}
Work Communicator::all_reduce_async(const void* send, void* recv, size_t count, DType dtype,
                                    Reduction op) {
  return submit([=](Communicator& c) { return c.all_reduce(send, recv, count, dtype, op); });
}
Work Communicator::reduce_scatter_async(const void* send, void* recv, size_t count, DType dtype,
                                        Reduction op) {
  return submit([=](Communicator& c) { return c.reduce_scatter(send, recv, count, dtype, op); });
}
Work Communicator::all_gather_async(const void* send, void* recv, size_t count, DType dtype) {
  return submit([=](Communicator& c) { return c.all_gather(send, recv, count, dtype); });
}
Work Communicator::broadcast_async(const void* send, void* recv, size_t count, DType dtype,
                                   Rank root) {
  return submit([=](Communicator& c) { return c.broadcast(send, recv, count, dtype, root); });
}
Work Communicator::reduce_async(const void* send, void* recv, size_t count, DType dtype,
                                Reduction op, Rank root) {
  return submit([=](Communicator& c) { return c.reduce(send, recv, count, dtype, op, root); });
}
Work Communicator::all_to_all_async(const void* send, void* recv, size_t count, DType dtype) {
  return submit([=](Communicator& c) { return c.all_to_all(send, recv, count, dtype); });
}
Work Communicator::barrier_async() {
  return submit([](Communicator& c) { return c.barrier(); });
}

// --- life cycle

namespace {

// The public face of what an Impl made: a communicator, null, or why not.
Result<std::unique_ptr<Communicator>> wrap(Communicator::Impl::Descendant made) {
  if (!made) return made.status();
  if (*made == nullptr) return std::unique_ptr<Communicator>();
  return std::make_unique<Communicator>(std::move(*made));
}

}  // namespace

Result<std::unique_ptr<Communicator>> Communicator::split(int color, int key,
                                                          const Config* config) {
  return wrap(impl_->split(color, key, config));
}
Result<std::unique_ptr<Communicator>> Communicator::shrink(std::span<const Rank> excluded,
                                                           const Config* config) {
  return wrap(impl_->shrink(excluded, config));
}
Result<UniqueId> Communicator::grow_id() { return impl_->grow_id(); }
Result<std::unique_ptr<Communicator>> Communicator::grow(uint32_t ranks, const UniqueId* id,
                                                         const Config* config) {
  return wrap(impl_->grow(ranks, id, config));
}

void Communicator::revoke(const std::string& reason) { impl_->revoke(reason); }
std::vector<Rank> Communicator::failed() const { return impl_->failed(); }
Result<Communicator::Agreement> Communicator::agree(uint64_t flags,
                                                    std::chrono::nanoseconds timeout) {
  return impl_->agree(flags, timeout);
}

void Communicator::abort(const std::string& reason) { impl_->abort(reason); }
Status Communicator::error() const { return impl_->error(); }
Status Communicator::finalize() { return impl_->finalize(std::chrono::seconds(5)); }
std::string Communicator::explain(Collective collective, size_t count, DType dtype, Rank root,
                                  bool in_place) {
  return impl_->explain({collective, nullptr, nullptr, count, dtype, {}, root}, in_place);
}
void Communicator::on_late(std::function<void(const std::string&)> callback) {
  impl_->on_late(std::move(callback));
}
void Communicator::on_wait(std::function<Status()> callback) {
  impl_->on_wait(std::move(callback));
}

const char* version() { return "0.1.0"; }

}  // namespace tutti
