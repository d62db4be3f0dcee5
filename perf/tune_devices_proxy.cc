// What a proxy costs: the one part of device prices that takes communicators.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <thread>

#include "perf/device_side.h"
#include "perf/statistics.h"
#include "perf/tune_devices.h"
#include "tutti/communicator.h"

namespace tutti::perf {
namespace {

using Clock = std::chrono::steady_clock;

// Seconds of one all_reduce in one step: of a rank, by where its buffers are.
struct Took {
  double device = 0, host = 0;
};

Result<double> seconds(const DeviceProbe& probe, const std::function<Status()>& call,
                       const std::function<Status()>& wait) {
  TUTTI_RETURN_IF_ERROR(call());
  TUTTI_RETURN_IF_ERROR(wait());
  std::vector<double> all;
  for (uint32_t r = 0; r < probe.repetitions; ++r) {
    const Clock::time_point start = Clock::now();
    for (uint32_t l = 0; l < probe.launches; ++l) TUTTI_RETURN_IF_ERROR(call());
    TUTTI_RETURN_IF_ERROR(wait());
    all.push_back(std::chrono::duration<double>(Clock::now() - start).count() / probe.launches);
  }
  return median(all);
}

Result<Took> as_rank(const UniqueId& id, Rank rank, const DeviceProbe& probe) {
  constexpr size_t k_count = 2;
  Result<Config> config = Config::from_environment();
  if (!config) return config.status();
  config->host_id = fmt::format("tutti tune, as host {}", rank);
  config->transports = {"tcp"};
  config->topology.clear();
  config->profile.clear();
  config->feedback = "off";
  config->fault.clear();
  config->deterministic = false;
  config->tune = "all_reduce:0-inf:direct_one_shot/packets";
  config->timeout = config->init_timeout = probe.patience;
  Result<std::unique_ptr<DeviceSide>> side = DeviceSide::open(static_cast<int>(rank), false);
  if (!side) return side.status();
  Result<void*> memory = (*side)->allocate(k_count * sizeof(float));
  if (!memory) return memory.status();
  auto* const device = static_cast<float*>(*memory);
  float host[k_count] = {};
  TUTTI_RETURN_IF_ERROR((*side)->put(device, host, sizeof host));
  Result<std::unique_ptr<Communicator>> comm = Communicator::create(id, rank, 2, *config);
  if (!comm) return comm.status();
  Took took;
  const auto ok = [&]() { return (*comm)->error(); };
  const Result<double> on_device = seconds(
      probe,
      [&] {
        return (*comm)
            ->on_stream((*side)->stream())
            .all_reduce(device, device, k_count, DType::float32, ReduceOp::sum);
      },
      [&] {
        TUTTI_RETURN_IF_ERROR((*side)->synchronize());
        return ok();
      });
  Result<double> on_host = on_device;
  if (on_device)
    on_host = seconds(
        probe,
        [&] { return (*comm)->all_reduce(host, host, k_count, DType::float32, ReduceOp::sum); },
        ok);
  const Status status = on_host.status();
  if (!status.ok()) (*comm)->abort(status.message());  // the other does not wait
  static_cast<void>((*side)->synchronize());
  comm->reset();
  (*side)->release(device);
  if (!status.ok()) return status;
  return Took{*on_device, *on_host};
}

Result<double> proxy(const DeviceProbe& probe, const DeviceCost& known) {
  if (DeviceSide::devices() < 2) return Status(Code::unsupported, "there is one device");
  if (!known.launch || !known.packet)
    return Status(Code::device_error, "a launch and a flag were not measured");
  const Result<UniqueId> id = UniqueId::create();
  if (!id) return id.status();
  Result<Took> told[2] = {Took{}, Took{}};
  std::thread other([&] { told[1] = as_rank(*id, 1, probe); });
  told[0] = as_rank(*id, 0, probe);
  other.join();
  for (const Result<Took>& t : told)
    if (!t) return t.status();
  const double device = std::max(told[0]->device, told[1]->device),
               host = std::max(told[0]->host, told[1]->host);
  const double left = device - host - *known.launch - 2 * *known.packet;
  if (left > 0) return left / 2;
  return Status(Code::device_error,
                fmt::format("a call between hosts took {:.3g} s on devices and {:.3g} s on host "
                            "buffers, which leaves nothing for it",
                            device, host));
}

}  // namespace

void measure_proxy(const DeviceProbe& probe, DeviceFindings& known) {
  const Result<double> price = proxy(probe, known.cost);
  if (price) {
    known.cost.proxy = *price;
  } else {
    known.left_out.push_back("the proxy: " + price.status().message());
  }
}

}  // namespace tutti::perf
