#include "src/cuda/group_launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace tutti::cuda {
namespace {

// Bytes that a thread has in flight: four vectors.
constexpr uint64_t k_bytes_per_block = uint64_t{k_block_threads} * k_vector * 4;

// One device's part.
struct Part {
  Device* device = nullptr;
  Stream stream = nullptr;  // where it launches: that of its first rank
  std::vector<Rank> ranks;
};

class GroupLaunch {
 public:
  GroupLaunch(Runtime& runtime, const GroupCall& call, const LaunchLimits& limits)
      : runtime_(runtime), driver_(runtime.driver()), call_(call), limits_(limits) {}
  ~GroupLaunch() {
    for (auto& [device, event] : events_) device->give_event(event);
  }

  Status run() {
    TUTTI_RETURN_IF_ERROR(sort_ranks());
    fill();
    TUTTI_RETURN_IF_ERROR(join_before());
    for (Part& part : parts_) TUTTI_RETURN_IF_ERROR(launch(part));
    return join_after();
  }

 private:
  Status sort_ranks() {
    std::map<int, size_t> known;
    for (Rank r = 0; r < call_.ranks.size(); ++r) {
      const GroupRank& rank = call_.ranks[r];
      auto [place, fresh] = known.try_emplace(rank.device, parts_.size());
      if (fresh) {
        Result<Device*> device = runtime_.device(rank.device);
        if (!device) return device.status();
        parts_.push_back({*device, rank.stream, {}});
      }
      Part& part = parts_[place->second];
      TUTTI_RETURN_IF_ERROR(
          runtime_.check_stream(rank.stream, *part.device).with_context(fmt::format("rank {}", r)));
      part.ranks.push_back(r);
    }
    for (const Part& a : parts_)
      for (const Part& b : parts_) TUTTI_RETURN_IF_ERROR(a.device->reach(*b.device));
    return {};
  }

  void fill() {
    arguments_ = {};
    arguments_.ranks = static_cast<uint32_t>(call_.ranks.size());
    arguments_.root = call_.root;
    arguments_.collective = call_.collective;
    arguments_.block = call_.count * size_of(call_.dtype);
    arguments_.op = {call_.op == ReduceOp::avg ? arguments_.ranks : 0, call_.op == ReduceOp::max,
                     call_.op == ReduceOp::premul_sum};
    for (Rank r = 0; r < arguments_.ranks; ++r) {
      arguments_.in[r] = static_cast<const std::byte*>(call_.ranks[r].send);
      arguments_.out[r] = static_cast<std::byte*>(call_.ranks[r].recv);
      arguments_.factor[r] = call_.ranks[r].factor;
    }
  }

  // Everybody's earlier work comes before any launch.
  Status join_before() {
    std::set<Stream> recorded;
    for (const Part& part : parts_)
      for (Rank r : part.ranks) {
        const Stream stream = call_.ranks[r].stream;
        const bool alone = parts_.size() == 1 && stream == part.stream;
        if (alone || !recorded.insert(stream).second) continue;
        Result<Event> event = record(*part.device, stream);
        if (!event) return event.status();
        for (const Part& to : parts_)
          if (to.stream != stream) TUTTI_RETURN_IF_ERROR(wait(to.stream, *event));
      }
    return {};
  }

  // And every launch before anybody's later work.
  Status join_after() {
    std::vector<std::pair<Stream, Event>> done;
    const bool alone = parts_.size() == 1 &&
                       std::all_of(call_.ranks.begin(), call_.ranks.end(), [&](const GroupRank& r) {
                         return r.stream == parts_[0].stream;
                       });
    if (alone) return {};
    for (const Part& part : parts_) {
      Result<Event> event = record(*part.device, part.stream);
      if (!event) return event.status();
      done.emplace_back(part.stream, *event);
    }
    std::set<Stream> told;
    for (const GroupRank& rank : call_.ranks) {
      if (!told.insert(rank.stream).second) continue;
      for (const auto& [stream, event] : done)
        if (stream != rank.stream) TUTTI_RETURN_IF_ERROR(wait(rank.stream, event));
    }
    return {};
  }

  Result<Event> record(Device& device, Stream stream) {
    Result<Event> event = device.take_event();
    if (!event) return event.status();
    events_.emplace_back(&device, *event);
    Scope scope(driver_, device.context());
    TUTTI_RETURN_IF_ERROR(scope.status());
    TUTTI_RETURN_IF_ERROR(driver_.check(driver_.event_record(*event, stream), "cuEventRecord"));
    return *event;
  }
  Status wait(Stream stream, Event event) {
    return driver_.check(driver_.stream_wait_event(stream, event, 0), "cuStreamWaitEvent");
  }

  Status launch(Part& part) {
    Scope scope(driver_, part.device->context());
    TUTTI_RETURN_IF_ERROR(scope.status());
    const uint32_t each = direct_jobs_per_rank(call_.collective, arguments_.ranks);
    const DirectJob sample = direct_job(arguments_, part.ranks[0], 0);
    if (sample.source_count == 1 && call_.op != ReduceOp::avg && !arguments_.op.scaled &&
        arguments_.block >= limits_.copy_engine_bytes)
      return copy_by_engine(part, each);
    Result<Function> function =
        part.device->function(Kernel::direct, call_.dtype, family_of(call_.op));
    if (!function) return function.status();
    for (size_t i = 0; i < part.ranks.size(); ++i)
      arguments_.here[i] = static_cast<uint8_t>(part.ranks[i]);
    const auto jobs = static_cast<uint32_t>(part.ranks.size()) * each;
    const uint32_t most = limits_.blocks > 0 ? limits_.blocks : 2 * part.device->multiprocessors();
    const uint64_t wanted = (sample.bytes + k_bytes_per_block - 1) / k_bytes_per_block;
    const auto across =
        static_cast<uint32_t>(std::clamp<uint64_t>(wanted, 1, std::max<uint32_t>(1, most / jobs)));
    void* parameters[] = {&arguments_};
    return driver_.check(driver_.launch(*function, across, jobs, 1, k_block_threads, 1, 1, 0,
                                        part.stream, parameters, nullptr),
                         "cuLaunchKernel");
  }

  Status copy_by_engine(const Part& part, uint32_t each) {
    for (Rank r : part.ranks)
      for (uint32_t i = 0; i < each; ++i) {
        const DirectJob job = direct_job(arguments_, r, i);
        const std::byte* from = arguments_.in[job.first_source] + job.source_offset;
        for (uint32_t d = 0; d < job.destination_count && job.bytes > 0; ++d) {
          std::byte* to = arguments_.out[job.first_destination + d] + job.destination_offset;
          if (to == from) continue;
          TUTTI_RETURN_IF_ERROR(
              driver_.check(driver_.copy(reinterpret_cast<DevicePtr>(to),
                                         reinterpret_cast<DevicePtr>(from), job.bytes, part.stream),
                            "cuMemcpyAsync"));
        }
      }
    return {};
  }

  Runtime& runtime_;
  const Driver& driver_;
  const GroupCall& call_;
  const LaunchLimits& limits_;
  DirectCall arguments_;
  std::vector<Part> parts_;
  std::vector<std::pair<Device*, Event>> events_;
};

}  // namespace

bool group_serves(const GroupCall& call) {
  const size_t block = call.count * size_of(call.dtype);
  bool in_place = false;
  for (Rank r = 0; r < call.ranks.size(); ++r) in_place |= call.ranks[r].send == call.ranks[r].recv;
  return block > 0 && call.ranks.size() <= k_max_direct_ranks &&
         direct_serves(call.collective, in_place);
}

Status launch_group(Runtime& runtime, const GroupCall& call, const LaunchLimits& limits) {
  return GroupLaunch(runtime, call, limits).run();
}

}  // namespace tutti::cuda
