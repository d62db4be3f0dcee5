// The host side of the device API: the arithmetic of teams, and refusals that say why.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "src/nccl/api.h"
#include "src/nccl/comm.h"

namespace tutti::nccl {
namespace {

ncclResult_t refused(const char* function) {
  return answer(function, [] {
    return invalid_usage(
        "the device API of NCCL is not served (deviceApiSupport is false in "
        "ncclCommQueryProperties): kernels compiled against NVIDIA's headers "
        "need NVIDIA's library");
  });
}

ncclResult_t refused_for(const char* function, ncclComm_t comm) {
  if (Found found = find(comm); !found.status.ok())
    return answer(function, [&] { return found.status; });
  return refused(function);
}

// For functions that return a team: with a bad communicator one of no ranks, and a last error.
template <class Make>
ncclTeam_t team(const char* function, ncclComm_t comm, Make&& make) {
  ncclTeam_t result{0, 0, 0};
  static_cast<void>(answer(function, [&] {
    Found found = find(comm);
    if (found.status.ok())
      result = make(static_cast<int>(found.comm->rank()), static_cast<int>(found.comm->ranks()));
    return found.status;
  }));
  return result;
}

ncclTeam_t alone(int, int) { return {1, 0, 1}; }
ncclTeam_t everybody(int rank, int ranks) { return {ranks, rank, 1}; }

int rank_in_world(const char* function, ncclComm_t comm, ncclTeam_t from, int rank, bool relative) {
  int result = -1;
  static_cast<void>(answer(function, [&] {
    Found found = find(comm);
    const int own = relative || !found.status.ok() ? 0 : static_cast<int>(found.comm->rank());
    if (found.status.ok()) result = own + (rank - from.rank) * from.stride;
    return found.status;
  }));
  return result;
}

}  // namespace
}  // namespace tutti::nccl

using namespace tutti;        // NOLINT: the rest is C functions
using namespace tutti::nccl;  // NOLINT

ncclResult_t pncclCommQueryProperties(ncclComm_t comm, ncclCommProperties_t* props) {
  return answer("ncclCommQueryProperties", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (props == nullptr) return invalid_argument("the pointer to the properties is null");
    if (props->magic != NCCL_API_MAGIC)
      return invalid_argument(
          fmt::format("props.magic is {:#x}: use "
                      "NCCL_COMM_PROPERTIES_INITIALIZER",
                      props->magic));
    constexpr size_t k_header = offsetof(ncclCommProperties_t, rank);
    if (props->size < k_header)
      return invalid_argument(fmt::format("props.size is {} bytes", props->size));
    ncclCommProperties_t known;
    std::memset(&known, 0, sizeof known);
    known.rank = static_cast<int>(found.comm->rank());
    known.nRanks = static_cast<int>(found.comm->ranks());
    known.cudaDev = known.nvmlDev = found.comm->device();
    known.nLsaTeams = known.nRanks;  // each rank is its own
    known.ginMinStride = 1;
    known.hostRmaSupport = found.comm->settings().rma();
    const size_t size = std::min(props->size, sizeof known);
    std::memcpy(reinterpret_cast<char*>(props) + k_header,
                reinterpret_cast<const char*>(&known) + k_header, size - k_header);
    return {};
  });
}

ncclTeam_t pncclTeamWorld(ncclComm_t comm) { return team("ncclTeamWorld", comm, everybody); }
ncclTeam_t pncclTeamLsa(ncclComm_t comm) { return team("ncclTeamLsa", comm, alone); }
ncclTeam_t pncclTeamRail(ncclComm_t comm) { return team("ncclTeamRail", comm, everybody); }
ncclTeam_t pncclTeamCft(ncclComm_t comm, ncclCftTeamMode_t) {
  return team("ncclTeamCft", comm, alone);
}
ncclTeam_t pncclTeamCftMultimem(ncclComm_t comm) {
  return team("ncclTeamCftMultimem", comm, alone);
}
int pncclTeamRankToWorld(ncclComm_t comm, ncclTeam_t from, int rank) {
  return rank_in_world("ncclTeamRankToWorld", comm, from, rank, false);
}
int pncclTeamRankToLsa(ncclComm_t comm, ncclTeam_t from, int rank) {
  return rank_in_world("ncclTeamRankToLsa", comm, from, rank, true);
}

ncclResult_t pncclDevCommCreate(ncclComm_t comm, const ncclDevCommRequirements_t*, ncclDevComm_t*) {
  return refused_for("ncclDevCommCreate", comm);
}
ncclResult_t pncclDevCommDestroy(ncclComm_t comm, const ncclDevComm_t*) {
  return refused_for("ncclDevCommDestroy", comm);
}
ncclResult_t pncclGetLsaMultimemDevicePointer(ncclWindow_t, size_t, void**) {
  return refused("ncclGetLsaMultimemDevicePointer");
}
ncclResult_t pncclGetMultimemDevicePointer(ncclWindow_t, size_t, ncclMultimemHandle_t, void**) {
  return refused("ncclGetMultimemDevicePointer");
}
ncclResult_t pncclGetLsaDevicePointer(ncclWindow_t, size_t, int, void**) {
  return refused("ncclGetLsaDevicePointer");
}
ncclResult_t pncclGetPeerDevicePointer(ncclWindow_t, size_t, int, void**) {
  return refused("ncclGetPeerDevicePointer");
}
ncclResult_t pncclGetMultimemDeviceLeInfo(ncclWindow_t, size_t, ncclCftLeId_t*, size_t*) {
  return refused("ncclGetMultimemDeviceLeInfo");
}
ncclResult_t pncclGetCftDeviceLeInfo(ncclWindow_t, size_t, int, ncclTeam_t, ncclCftLeId_t*,
                                     size_t*) {
  return refused("ncclGetCftDeviceLeInfo");
}
ncclResult_t pncclGetPeerDeviceLeInfo(ncclWindow_t, size_t, int, ncclCftLeId_t*, size_t*) {
  return refused("ncclGetPeerDeviceLeInfo");
}
ncclResult_t pncclLsaBarrierCreateRequirement(ncclTeam_t, int, ncclLsaBarrierHandle_t*,
                                              ncclDevResourceRequirements_t*) {
  return refused("ncclLsaBarrierCreateRequirement");
}
ncclResult_t pncclGinBarrierCreateRequirement(ncclComm_t comm, ncclTeam_t, int,
                                              ncclGinBarrierHandle_t*,
                                              ncclDevResourceRequirements_t*) {
  return refused_for("ncclGinBarrierCreateRequirement", comm);
}
ncclResult_t pncclCftBarrierCreateRequirement(ncclTeam_t, int, ncclCftBarrierHandle_t*,
                                              ncclDevResourceRequirements_t*) {
  return refused("ncclCftBarrierCreateRequirement");
}
ncclResult_t pncclGinOutboxCreateRequirement(int, int, ncclGinOutboxHandle_t*,
                                             ncclDevResourceRequirements_t*) {
  return refused("ncclGinOutboxCreateRequirement");
}
ncclResult_t pncclGinInboxA2ACreateRequirement(ncclTeam_t, int, int, ncclGinInboxA2AHandle_t*,
                                               ncclDevResourceRequirements_t*) {
  return refused("ncclGinInboxA2ACreateRequirement");
}
ncclResult_t pncclLLA2ACreateRequirement(int, int, ncclLLA2AHandle_t*,
                                         ncclDevResourceRequirements_t*) {
  return refused("ncclLLA2ACreateRequirement");
}
int pncclLLA2ACalcSlots(int maxElts, int maxEltSize) { return maxElts * ((maxEltSize + 7) / 8); }

TUTTI_NCCL_DEVICE_NAMES(TUTTI_NCCL_WEAK_ALIAS)
