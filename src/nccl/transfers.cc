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

Operation one_sided(Operation::Kind kind, int peer, int index, int context, cudaStream_t stream) {
  Operation o;
  o.kind = kind;
  o.root = peer;
  o.signal = {index, context};
  o.stream = stream;
  return o;
}

Status check_flags(unsigned int flags) {
  return flags == 0 ? Status() : invalid_argument(fmt::format("flags are {:#x}, not 0", flags));
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

ncclResult_t pncclPutSignal(const void* localbuff, size_t count, ncclDataType_t datatype, int peer,
                            ncclWindow_t peerWin, size_t peerWinOffset, int sigIdx, int ctx,
                            unsigned int flags, ncclComm_t comm, cudaStream_t stream) {
  return answer("ncclPutSignal", [&]() -> Status {
    if (Status status = check_flags(flags); !status.ok()) return in_group(std::move(status));
    Operation o = one_sided(Operation::Kind::put_signal, peer, sigIdx, ctx, stream);
    o.send = localbuff;
    o.count = count;
    o.datatype = static_cast<int>(datatype);
    o.window = peerWin;
    o.offset = peerWinOffset;
    return submit(&o, comm);
  });
}

ncclResult_t pncclSignal(int peer, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm,
                         cudaStream_t stream) {
  return answer("ncclSignal", [&]() -> Status {
    if (Status status = check_flags(flags); !status.ok()) return in_group(std::move(status));
    Operation o = one_sided(Operation::Kind::signal, peer, sigIdx, ctx, stream);
    return submit(&o, comm);
  });
}

ncclResult_t pncclWaitSignal(int nDesc, ncclWaitSignalDesc_t* signalDescs, ncclComm_t comm,
                             cudaStream_t stream) {
  return answer("ncclWaitSignal", [&]() -> Status {
    if (nDesc < 0 || (nDesc > 0 && signalDescs == nullptr))
      return in_group(invalid_argument(nDesc < 0 ? fmt::format("{} descriptors", nDesc)
                                                 : "the array of descriptors is null"));
    Operation o = one_sided(Operation::Kind::wait_signal, 0, 0, 0, stream);
    o.waits.assign(signalDescs, signalDescs + nDesc);
    return submit(&o, comm);
  });
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
