// Point-to-point calls, one-sided calls, and groups.
#include <fmt/format.h>

#include <cstring>

#include "src/nccl/api.h"
#include "src/nccl/group.h"
#include "src/nccl/life.h"
#include "src/nccl/submit.h"

namespace tutti::nccl {
namespace {

ncclResult_t transfer(const char* function, Operation::Kind kind, const void* send, void* recv,
                      size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return answer(function, [&] {
    Operation o;
    o.kind = kind;
    o.send = send;
    o.recv = recv;
    o.count = count;
    o.datatype = static_cast<int>(datatype);
    o.root = peer;
    o.stream = stream;
    return submit(&o, comm);
  });
}

// One-sided calls need a peer that takes part without calling; see docs/nccl.md.
Status one_sided(ncclComm_t comm) {
  Found found = find(comm);
  if (!found.status.ok()) return in_group(std::move(found.status));
  return in_group(invalid_usage(
      fmt::format("rank {}: tutti has no one-sided operations (hostRmaSupport is false in "
                  "ncclCommQueryProperties); use ncclSend and ncclRecv",
                  found.comm->rank())));
}

Status check_sim_info(const ncclSimInfo_t* info) {
  if (info == nullptr) return {};
  if (info->magic != 0x74685283)
    return invalid_argument(
        fmt::format("simInfo.magic is {:#x}: the structure was not "
                    "initialized with NCCL_SIM_INFO_INITIALIZER",
                    info->magic));
  if (info->size < offsetof(ncclSimInfo_t, estimatedTime) + sizeof(float))
    return invalid_argument(fmt::format("simInfo.size is {} bytes", info->size));
  return {};
}

}  // namespace
}  // namespace tutti::nccl

using namespace tutti;        // NOLINT: the rest is C functions
using namespace tutti::nccl;  // NOLINT

ncclResult_t pncclSend(const void* sendbuff, size_t count, ncclDataType_t datatype, int peer,
                       ncclComm_t comm, cudaStream_t stream) {
  return transfer("ncclSend", Operation::Kind::send, sendbuff, nullptr, count, datatype, peer, comm,
                  stream);
}

ncclResult_t pncclRecv(void* recvbuff, size_t count, ncclDataType_t datatype, int peer,
                       ncclComm_t comm, cudaStream_t stream) {
  return transfer("ncclRecv", Operation::Kind::recv, nullptr, recvbuff, count, datatype, peer, comm,
                  stream);
}

ncclResult_t pncclPutSignal(const void*, size_t, ncclDataType_t, int, ncclWindow_t, size_t, int,
                            int, unsigned int, ncclComm_t comm, cudaStream_t) {
  return answer("ncclPutSignal", [&] { return one_sided(comm); });
}

ncclResult_t pncclSignal(int, int, int, unsigned int, ncclComm_t comm, cudaStream_t) {
  return answer("ncclSignal", [&] { return one_sided(comm); });
}

ncclResult_t pncclWaitSignal(int, ncclWaitSignalDesc_t*, ncclComm_t comm, cudaStream_t) {
  return answer("ncclWaitSignal", [&] { return one_sided(comm); });
}

ncclResult_t pncclGroupStart(void) {
  return answer("ncclGroupStart", []() -> Status {
    Group::mine().start();
    return {};
  });
}

ncclResult_t pncclGroupEnd(void) {
  return answer("ncclGroupEnd", [] { return Group::mine().end(); });
}

ncclResult_t pncclGroupSimulateEnd(ncclSimInfo_t* simInfo) {
  return answer("ncclGroupSimulateEnd", [&]() -> Status {
    const Result<double> seconds = Group::mine().estimate();
    TUTTI_RETURN_IF_ERROR(Group::mine().drop());
    TUTTI_RETURN_IF_ERROR(check_sim_info(simInfo));
    if (!seconds) return seconds.status();
    if (simInfo != nullptr) simInfo->estimatedTime = static_cast<float>(*seconds * 1e6);
    return {};
  });
}

TUTTI_NCCL_TRANSFER_NAMES(TUTTI_NCCL_WEAK_ALIAS)
