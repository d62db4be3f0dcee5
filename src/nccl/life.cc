// Making communicators, asking them, and ending them.
#include "src/nccl/life.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstring>
#include <random>

#include "src/cuda/runtime.h"
#include "src/nccl/api.h"
#include "src/nccl/comm.h"
#include "src/nccl/group.h"
#include "src/nccl/log.h"
#include "src/nccl/pointers.h"
#include "src/nccl/variables.h"

namespace tutti::nccl {
namespace {

// The device of the thread's CUDA context; else what the CUDA runtime of the program says, if it
// has one; the first device otherwise.
int current_device() {
  if (driver_is_loaded())
    if (Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process())
      if (int current = 0; (*runtime)->driver().context_device(&current) == 0) return current;
  using GetDevice = int (*)(int*);
  const auto get = reinterpret_cast<GetDevice>(::dlsym(RTLD_DEFAULT, "cudaGetDevice"));
  int device = 0;
  return get != nullptr && get(&device) == 0 && device >= 0 ? device : 0;
}

// So that a rank's place on its host is its device's.
void place_on(int device, Config* config) {
  if (!driver_is_loaded()) return;
  const Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process();
  if (!runtime) return;
  if (std::string id = (*runtime)->bus_id(device); !id.empty()) config->gpu = std::move(id);
}

Result<Settings> settings_of(const ncclConfig_t* config) { return read_config(config, Settings()); }

Status check_join(const ncclComm_t* comm, int nranks, int rank) {
  if (comm == nullptr) return invalid_argument("the pointer to the new communicator is null");
  if (nranks < 1) return invalid_argument(fmt::format("{} ranks", nranks));
  if (rank < 0 || rank >= nranks)
    return invalid_argument(fmt::format("rank {} of {} ranks", rank, nranks));
  return {};
}

Status init_rank(ncclComm_t* comm, int nranks, const ncclUniqueId& id, int rank,
                 const ncclConfig_t* config) {
  TUTTI_RETURN_IF_ERROR(check_join(comm, nranks, rank));
  *comm = nullptr;
  Result<Settings> settings = settings_of(config);
  if (!settings) return settings.status();
  return launch(comm, join(nranks, id, rank, std::move(*settings)));
}

Status init_all(ncclComm_t* out, int ndev, const int* devlist) {
  if (out == nullptr) return invalid_argument("the array of new communicators is null");
  if (ndev < 1) return invalid_argument(fmt::format("{} devices", ndev));
  std::set<int> seen;
  for (int i = 0; devlist != nullptr && i < ndev; ++i) {
    if (devlist[i] < 0) return invalid_argument(fmt::format("devlist[{}] is {}", i, devlist[i]));
    if (!seen.insert(devlist[i]).second && !several_ranks_per_device())
      return invalid_usage(
          fmt::format("device {} is twice in devlist; "
                      "NCCL_MULTI_RANK_GPU_ENABLE=1 allows it",
                      devlist[i]));
  }
  Result<Settings> settings = settings_of(nullptr);
  if (!settings) return settings.status();
  settings->blocking = true;
  report_variables();
  Result<Config> config = Config::from_environment();
  if (!config) return config.status();
  std::vector<Config> configs(static_cast<size_t>(ndev), *config);
  for (int i = 0; i < ndev; ++i)
    place_on(devlist != nullptr ? devlist[i] : i, &configs[static_cast<size_t>(i)]);
  auto made = Communicator::create_local(configs);
  if (!made) return made.status();
  std::vector<std::shared_ptr<Comm>> comms;
  std::random_device random;
  const std::string world = fmt::format("all {:08x}{:08x}", random(), random());
  std::vector<Status> started(ndev);
  for (int i = 0; i < ndev; ++i) {
    comms.push_back(std::make_shared<Comm>(static_cast<Rank>(i), static_cast<uint32_t>(ndev),
                                           devlist != nullptr ? devlist[i] : i, *settings));
    comms.back()->set_world(world);
    auto start = [&, i] {
      started[i] = comms[i]->start(
          [&]() -> Result<std::unique_ptr<Communicator>> { return std::move((*made)[i]); });
    };
    // Those of a real NCCL wait for each other.
    settings->fallback.empty() ? start() : comms[i]->lane().post(start);
  }
  for (const auto& comm : comms) comm->lane().drain();
  for (const Status& status : started) TUTTI_RETURN_IF_ERROR(status);
  for (int i = 0; i < ndev; ++i) TUTTI_RETURN_IF_ERROR(publish(&out[i], comms[i]));
  return {};
}

// Runs at once, or after everything else of an open group.
Status at_the_end(std::function<Status()> body) {
  if (!Group::open()) return body();
  Group::mine().add_last(std::move(body));
  return {};
}

Status end_of_life(ncclComm_t handle, bool abort) {
  if (handle == nullptr) return {};
  if (Found found = find(handle); !found.status.ok()) return found.status;
  return at_the_end([handle, abort]() -> Status {
    std::shared_ptr<Comm> comm;
    {
      Found found = find(handle);
      if (!found.status.ok()) return found.status;
      comm = found.comm.shared();
    }
    if (!comms().retire(handle)) return find(handle).status;  // another thread was faster
    const bool ready = comm->started();
    if (abort || !ready) comm->abort();
    if (ready) comm->drain_device();
    if (ready && !abort) comm->lane().drain();
    forget_memory(*comm);
    static_cast<void>(comms().take(handle));
    return {};
  });
}

template <class Read>
ncclResult_t ask(const char* function, ncclComm_t handle, const void* out, Read&& read) {
  return answer(function, [&]() -> Status {
    Found found = find(handle);
    if (!found.status.ok()) return found.status;
    if (out == nullptr) return invalid_argument("the pointer to the answer is null");
    if (found.comm->ranks() == 0)
      return invalid_usage("the communicator is still being made; poll ncclCommGetAsyncError");
    return read(*found.comm);
  });
}

}  // namespace

Status publish(ncclComm_t* out, std::shared_ptr<Comm> comm) {
  void* handle = comms().add(std::move(comm));
  if (handle == nullptr) return Status(Code::system_error, "too many communicators");
  *out = static_cast<ncclComm_t>(handle);
  return {};
}

Birth join(int nranks, const ncclUniqueId& id, int rank, Settings settings) {
  auto comm = std::make_shared<Comm>(static_cast<Rank>(rank), static_cast<uint32_t>(nranks),
                                     current_device(), std::move(settings));
  comm->set_world(std::string(id.internal, sizeof id.internal));
  UniqueId unique;
  static_assert(sizeof id.internal == sizeof unique.bytes);
  std::memcpy(unique.bytes.data(), id.internal, sizeof id.internal);
  return {
      comm, nullptr,
      [unique, rank, nranks, device = comm->device()]() -> Result<std::unique_ptr<Communicator>> {
        report_variables();
        Result<Config> config = Config::from_environment();
        if (!config) return config.status();
        place_on(device, &*config);
        return Communicator::create(unique, static_cast<Rank>(rank), static_cast<uint32_t>(nranks),
                                    *config);
      }};
}

Status launch(ncclComm_t* out, Birth birth) {
  const std::shared_ptr<Comm> comm = birth.comm;
  auto body = [comm, make = std::move(birth.make)] {
    Status status = comm->start(make);
    if (!status.ok()) comm->remember_error(status);
    return status;
  };
  // Where it runs: on the parent's lane, behind what the parent has to do, or on its own.
  const std::shared_ptr<Comm>& lane = birth.parent != nullptr ? birth.parent : comm;
  const bool waits = birth.parent != nullptr;
  if (Group::open()) {
    TUTTI_RETURN_IF_ERROR(publish(out, comm));
    Group::mine().add(lane, waits, body, [comm](const Status& error) {
      static_cast<void>(
          comm->start([&]() -> Result<std::unique_ptr<Communicator>> { return error; }));
    });
    return {};
  }
  if (comm->blocking() && lane->blocking()) {
    TUTTI_RETURN_IF_ERROR(waits ? lane->perform(body) : body());
    return publish(out, comm);
  }
  TUTTI_RETURN_IF_ERROR(publish(out, comm));
  if (waits)
    lane->post(body, [comm](const Status& status) {
      // A parent that could not start takes its children with it.
      if (!status.ok() && !comm->started())
        static_cast<void>(
            comm->start([&]() -> Result<std::unique_ptr<Communicator>> { return status; }));
    });
  else
    lane->lane().post([body] { static_cast<void>(body()); });
  return in_progress();
}

}  // namespace tutti::nccl

using namespace tutti;        // NOLINT: the rest is C functions
using namespace tutti::nccl;  // NOLINT

ncclResult_t pncclGetUniqueId(ncclUniqueId* uniqueId) {
  return answer("ncclGetUniqueId", [&]() -> Status {
    if (uniqueId == nullptr) return invalid_argument("the pointer to the id is null");
    Result<UniqueId> id = UniqueId::create();
    if (!id) return id.status();
    std::memcpy(uniqueId->internal, id->bytes.data(), sizeof uniqueId->internal);
    return {};
  });
}

ncclResult_t pncclCommInitRank(ncclComm_t* comm, int nranks, ncclUniqueId commId, int rank) {
  return answer("ncclCommInitRank", [&] {
    Status status = init_rank(comm, nranks, commId, rank, nullptr);
    return in_group(std::move(status));
  });
}

ncclResult_t pncclCommInitRankConfig(ncclComm_t* comm, int nranks, ncclUniqueId commId, int rank,
                                     ncclConfig_t* config) {
  return answer("ncclCommInitRankConfig",
                [&] { return in_group(init_rank(comm, nranks, commId, rank, config)); });
}

ncclResult_t pncclCommInitRankScalable(ncclComm_t* newcomm, int nranks, int myrank, int nId,
                                       ncclUniqueId* commIds, ncclConfig_t* config) {
  return answer("ncclCommInitRankScalable", [&]() -> Status {
    if (commIds == nullptr) return in_group(invalid_argument("the array of ids is null"));
    if (nId < 1 || nId > nranks)
      return in_group(invalid_argument(fmt::format("{} ids for {} ranks", nId, nranks)));
    return in_group(init_rank(newcomm, nranks, commIds[0], myrank, config));
  });
}

ncclResult_t pncclCommInitAll(ncclComm_t* comm, int ndev, const int* devlist) {
  return answer("ncclCommInitAll", [&] { return in_group(init_all(comm, ndev, devlist)); });
}

ncclResult_t pncclCommFinalize(ncclComm_t handle) {
  return answer("ncclCommFinalize", [&]() -> Status {
    Found found = find(handle);
    if (!found.status.ok()) return in_group(found.status);
    if (!Group::open()) return found.comm->finalize();
    Group::mine().add(found.comm.shared(), true,
                      [comm = found.comm.shared()] { return comm->finalize(); });
    return {};
  });
}

ncclResult_t pncclCommDestroy(ncclComm_t comm) {
  return answer("ncclCommDestroy", [&] { return end_of_life(comm, false); });
}

ncclResult_t pncclCommAbort(ncclComm_t comm) {
  return answer("ncclCommAbort", [&] { return end_of_life(comm, true); });
}

ncclResult_t pncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* asyncError) {
  return answer("ncclCommGetAsyncError", [&]() -> Status {
    Found found = find(handle);
    if (!found.status.ok()) return found.status;
    if (asyncError == nullptr) return invalid_argument("the pointer to the answer is null");
    *asyncError = result_of(found.comm->state().code());
    return {};
  });
}

ncclResult_t pncclCommCount(const ncclComm_t comm, int* count) {
  return ask("ncclCommCount", comm, count, [&](Comm& c) -> Status {
    *count = static_cast<int>(c.ranks());
    return {};
  });
}

ncclResult_t pncclCommCuDevice(const ncclComm_t comm, int* device) {
  return ask("ncclCommCuDevice", comm, device, [&](Comm& c) -> Status {
    *device = c.device();
    return {};
  });
}

ncclResult_t pncclCommUserRank(const ncclComm_t comm, int* rank) {
  return ask("ncclCommUserRank", comm, rank, [&](Comm& c) -> Status {
    *rank = static_cast<int>(c.rank());
    return {};
  });
}

ncclResult_t pncclCommSuspend(ncclComm_t handle, int flags) {
  return answer("ncclCommSuspend", [&]() -> Status {
    Found found = find(handle);
    if (!found.status.ok()) return found.status;
    if (flags != NCCL_SUSPEND_MEM)
      return invalid_argument(fmt::format("flags are {:#x}, not NCCL_SUSPEND_MEM", flags));
    return found.comm->suspend();
  });
}

ncclResult_t pncclCommResume(ncclComm_t handle) {
  return answer("ncclCommResume", [&]() -> Status {
    Found found = find(handle);
    return found.status.ok() ? found.comm->resume() : found.status;
  });
}

ncclResult_t pncclCommMemStats(ncclComm_t comm, ncclCommMemStat_t stat, uint64_t* value) {
  return ask("ncclCommMemStats", comm, value, [&](Comm& c) -> Status {
    const int which = static_cast<int>(stat);
    if (which < ncclStatGpuMemSuspend || which > ncclStatGpuMemTotal)
      return invalid_argument(fmt::format("unknown statistic {}", which));
    *value = stat == ncclStatGpuMemSuspended && c.suspended() ? 1 : 0;
    return {};
  });
}

TUTTI_NCCL_LIFE_NAMES(TUTTI_NCCL_WEAK_ALIAS)
