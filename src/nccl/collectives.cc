// Collectives and reduction operators.
#include <fmt/format.h>

#include "src/nccl/api.h"
#include "src/nccl/group.h"
#include "src/nccl/life.h"
#include "src/nccl/pointers.h"
#include "src/nccl/submit.h"

namespace tutti::nccl {
namespace {

using Kind = Operation::Kind;

Operation operation(Kind kind, const void* send, void* recv, size_t count, ncclDataType_t datatype,
                    ncclRedOp_t op = ncclSum, int root = 0) {
  Operation o;
  o.kind = kind;
  o.send = send;
  o.recv = recv;
  o.count = count;
  o.datatype = static_cast<int>(datatype);
  o.op = static_cast<int>(op);
  o.root = root;
  return o;
}

// What a per-call config asks for is checked; only the choice of an algorithm would change
// anything.
Status check_config(const ncclCollConfig_t* config) {
  if (config == nullptr) return {};
  if (config->magic != NCCL_API_MAGIC)
    return invalid_argument(
        fmt::format("config.magic is {:#x}, not {:#x}: the structure was not "
                    "initialized with NCCL_COLLCONFIG_INITIALIZER",
                    config->magic, NCCL_API_MAGIC));
  if (config->size < offsetof(ncclCollConfig_t, launchCompletionEvent))
    return invalid_argument(fmt::format("config.size is {} bytes", config->size));
  const std::pair<const char*, int> counts[] = {{"minCTAs", config->minCTAs},
                                                {"maxCTAs", config->maxCTAs},
                                                {"nvlsCTAs", config->nvlsCTAs},
                                                {"cgaClusterSize", config->cgaClusterSize},
                                                {"CTAPolicy", config->CTAPolicy}};
  for (const auto& [name, value] : counts)
    if (value != NCCL_CONFIG_UNDEF_INT && value < 0)
      return invalid_argument(fmt::format("config.{} is {}", name, value));
  const bool selects = config->algSelection != nullptr && config->algSelection[0] != '\0';
  if (selects && config->forceAlgSelection != 0)
    return invalid_usage(
        fmt::format("config.algSelection \"{}\" cannot be forced: tutti has "
                    "algorithms of its own (NCCL_ALGO, TUTTI_TUNE)",
                    config->algSelection));
  return {};
}

ncclResult_t configured(const char* function, Operation o, ncclComm_t comm, cudaStream_t stream,
                        const ncclCollConfig_t* config) {
  return answer(function, [&]() -> Status {
    o.stream = stream;
    if (Status status = check_config(config); !status.ok()) return in_group(std::move(status));
    return submit(&o, comm);
  });
}

ncclResult_t plain(const char* function, Operation o, ncclComm_t comm, cudaStream_t stream) {
  o.stream = stream;
  return answer(function, [&] { return submit(&o, comm); });
}

// Vector all-to-all: a group of sends and receives.
Status all_to_all_v(const void* send, const size_t send_counts[], const size_t send_offsets[],
                    void* recv, const size_t recv_counts[], const size_t recv_offsets[],
                    ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream) {
  if (send_counts == nullptr || send_offsets == nullptr || recv_counts == nullptr ||
      recv_offsets == nullptr)
    return invalid_argument("an array of counts or displacements is null");
  const int type = static_cast<int>(datatype);
  if (type < 0 || type >= ncclNumTypes)
    return invalid_argument(fmt::format("unknown datatype {}", type));
  uint32_t ranks = 0;
  {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    TUTTI_RETURN_IF_ERROR(found.comm->wait_started());
    ranks = found.comm->ranks();
  }
  const size_t element = size_of(static_cast<DType>(type));
  Group::mine().start();
  Status status;
  for (uint32_t peer = 0; peer < ranks && status.ok(); ++peer) {
    for (size_t n : {send_counts[peer], send_offsets[peer], recv_counts[peer], recv_offsets[peer]})
      if (n > SIZE_MAX / 4 / element)
        status = invalid_argument(fmt::format("count or displacement {} overflows", n));
    const auto* from = static_cast<const std::byte*>(send);
    auto* to = static_cast<std::byte*>(recv);
    Operation out =
        operation(Kind::send, from == nullptr ? from : from + send_offsets[peer] * element, nullptr,
                  send_counts[peer], datatype, ncclSum, static_cast<int>(peer));
    Operation in =
        operation(Kind::recv, nullptr, to == nullptr ? to : to + recv_offsets[peer] * element,
                  recv_counts[peer], datatype, ncclSum, static_cast<int>(peer));
    out.stream = in.stream = stream;
    if (status.ok()) status = submit(&out, comm);
    if (status.ok()) status = submit(&in, comm);
  }
  if (!status.ok()) static_cast<void>(Group::mine().fail(status));
  Status end = Group::mine().end();
  return status.ok() ? end : status;
}

}  // namespace

Status in_group(Status status) {
  const bool error = !status.ok() && status.code() != Code::in_progress;
  return error && Group::open() ? Group::mine().fail(status) : status;
}

Status submit(Operation* operation, ncclComm_t handle) {
  Found found = find(handle);
  if (!found.status.ok()) return in_group(std::move(found.status));
  if (Status status = found.comm->check(operation); !status.ok())
    return in_group(std::move(status));
  if (!Group::open()) return found.comm->perform(operation);
  Group::mine().add(handle, found.comm.shared(), *operation);
  return {};
}

}  // namespace tutti::nccl

using namespace tutti;        // NOLINT: the rest is C functions
using namespace tutti::nccl;  // NOLINT

ncclResult_t pncclAllReduce(const void* sendbuff, void* recvbuff, size_t count,
                            ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                            cudaStream_t stream) {
  return plain("ncclAllReduce",
               operation(Kind::all_reduce, sendbuff, recvbuff, count, datatype, op), comm, stream);
}
ncclResult_t pncclAllReduceConfig(const void* sendbuff, void* recvbuff, size_t count,
                                  ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                                  cudaStream_t stream, const ncclCollConfig_t* config) {
  return configured("ncclAllReduceConfig",
                    operation(Kind::all_reduce, sendbuff, recvbuff, count, datatype, op), comm,
                    stream, config);
}

ncclResult_t pncclReduceScatter(const void* sendbuff, void* recvbuff, size_t recvcount,
                                ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                                cudaStream_t stream) {
  return plain("ncclReduceScatter",
               operation(Kind::reduce_scatter, sendbuff, recvbuff, recvcount, datatype, op), comm,
               stream);
}
ncclResult_t pncclReduceScatterConfig(const void* sendbuff, void* recvbuff, size_t recvcount,
                                      ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                                      cudaStream_t stream, const ncclCollConfig_t* config) {
  return configured("ncclReduceScatterConfig",
                    operation(Kind::reduce_scatter, sendbuff, recvbuff, recvcount, datatype, op),
                    comm, stream, config);
}

ncclResult_t pncclAllGather(const void* sendbuff, void* recvbuff, size_t sendcount,
                            ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream) {
  return plain("ncclAllGather",
               operation(Kind::all_gather, sendbuff, recvbuff, sendcount, datatype), comm, stream);
}
ncclResult_t pncclAllGatherConfig(const void* sendbuff, void* recvbuff, size_t sendcount,
                                  ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream,
                                  const ncclCollConfig_t* config) {
  return configured("ncclAllGatherConfig",
                    operation(Kind::all_gather, sendbuff, recvbuff, sendcount, datatype), comm,
                    stream, config);
}

ncclResult_t pncclBroadcast(const void* sendbuff, void* recvbuff, size_t count,
                            ncclDataType_t datatype, int root, ncclComm_t comm,
                            cudaStream_t stream) {
  return plain("ncclBroadcast",
               operation(Kind::broadcast, sendbuff, recvbuff, count, datatype, ncclSum, root), comm,
               stream);
}
ncclResult_t pncclBroadcastConfig(const void* sendbuff, void* recvbuff, size_t count,
                                  ncclDataType_t datatype, int root, ncclComm_t comm,
                                  cudaStream_t stream, const ncclCollConfig_t* config) {
  return configured("ncclBroadcastConfig",
                    operation(Kind::broadcast, sendbuff, recvbuff, count, datatype, ncclSum, root),
                    comm, stream, config);
}
ncclResult_t pncclBcast(void* buff, size_t count, ncclDataType_t datatype, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  return plain("ncclBcast", operation(Kind::broadcast, buff, buff, count, datatype, ncclSum, root),
               comm, stream);
}

ncclResult_t pncclReduce(const void* sendbuff, void* recvbuff, size_t count,
                         ncclDataType_t datatype, ncclRedOp_t op, int root, ncclComm_t comm,
                         cudaStream_t stream) {
  return plain("ncclReduce", operation(Kind::reduce, sendbuff, recvbuff, count, datatype, op, root),
               comm, stream);
}
ncclResult_t pncclReduceConfig(const void* sendbuff, void* recvbuff, size_t count,
                               ncclDataType_t datatype, ncclRedOp_t op, int root, ncclComm_t comm,
                               cudaStream_t stream, const ncclCollConfig_t* config) {
  return configured("ncclReduceConfig",
                    operation(Kind::reduce, sendbuff, recvbuff, count, datatype, op, root), comm,
                    stream, config);
}

ncclResult_t pncclAlltoAll(const void* sendbuff, void* recvbuff, size_t count,
                           ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream) {
  return plain("ncclAlltoAll", operation(Kind::all_to_all, sendbuff, recvbuff, count, datatype),
               comm, stream);
}
ncclResult_t pncclAlltoAllConfig(const void* sendbuff, void* recvbuff, size_t count,
                                 ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream,
                                 const ncclCollConfig_t* config) {
  return configured("ncclAlltoAllConfig",
                    operation(Kind::all_to_all, sendbuff, recvbuff, count, datatype), comm, stream,
                    config);
}
ncclResult_t pncclAllToAll(const void* sendbuff, void* recvbuff, size_t count,
                           ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream) {
  return pncclAlltoAll(sendbuff, recvbuff, count, datatype, comm, stream);
}
ncclResult_t pncclAllToAllv(const void* sendbuff, const size_t sendcounts[], const size_t sdispls[],
                            void* recvbuff, const size_t recvcounts[], const size_t rdispls[],
                            ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream) {
  return answer("ncclAllToAllv", [&] {
    return in_group(all_to_all_v(sendbuff, sendcounts, sdispls, recvbuff, recvcounts, rdispls,
                                 datatype, comm, stream));
  });
}

ncclResult_t pncclGather(const void* sendbuff, void* recvbuff, size_t count,
                         ncclDataType_t datatype, int root, ncclComm_t comm, cudaStream_t stream) {
  return plain("ncclGather",
               operation(Kind::gather, sendbuff, recvbuff, count, datatype, ncclSum, root), comm,
               stream);
}
ncclResult_t pncclGatherConfig(const void* sendbuff, void* recvbuff, size_t count,
                               ncclDataType_t datatype, int root, ncclComm_t comm,
                               cudaStream_t stream, const ncclCollConfig_t* config) {
  return configured("ncclGatherConfig",
                    operation(Kind::gather, sendbuff, recvbuff, count, datatype, ncclSum, root),
                    comm, stream, config);
}

ncclResult_t pncclScatter(const void* sendbuff, void* recvbuff, size_t count,
                          ncclDataType_t datatype, int root, ncclComm_t comm, cudaStream_t stream) {
  return plain("ncclScatter",
               operation(Kind::scatter, sendbuff, recvbuff, count, datatype, ncclSum, root), comm,
               stream);
}
ncclResult_t pncclScatterConfig(const void* sendbuff, void* recvbuff, size_t count,
                                ncclDataType_t datatype, int root, ncclComm_t comm,
                                cudaStream_t stream, const ncclCollConfig_t* config) {
  return configured("ncclScatterConfig",
                    operation(Kind::scatter, sendbuff, recvbuff, count, datatype, ncclSum, root),
                    comm, stream, config);
}

ncclResult_t pncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar, ncclDataType_t datatype,
                                       ncclScalarResidence_t residence, ncclComm_t comm) {
  return answer("ncclRedOpCreatePreMulSum", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (op == nullptr) return invalid_argument("the pointer to the operator is null");
    if (scalar == nullptr) return invalid_argument("the scalar is null");
    const int type = static_cast<int>(datatype), where = static_cast<int>(residence);
    if (type < 0 || type >= ncclNumTypes)
      return invalid_argument(fmt::format("unknown datatype {}", type));
    if (where != ncclScalarDevice && where != ncclScalarHostImmediate)
      return invalid_argument(fmt::format("unknown residence {}", where));
    const auto dtype = static_cast<DType>(type);
    const bool for_another = where == ncclScalarDevice && found.comm->settings().fallback.reduces();
    if (!for_another) {  // of a scalar on a device the value is read when the operation runs
      Result<Place> place = common_place(scalar, size_of(dtype), nullptr, 0);
      if (!place) return place.status().with_context("the scalar");
      if (*place == Place::device && where == ncclScalarHostImmediate)
        return invalid_argument("the scalar is device memory, not a value of the host");
    }
    *op = found.comm->add_premul(dtype, scalar, where == ncclScalarHostImmediate);
    return {};
  });
}

ncclResult_t pncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm) {
  return answer("ncclRedOpDestroy", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (static_cast<int>(op) >= 0 && static_cast<int>(op) < ncclNumOps)
      return invalid_argument(fmt::format("op {} is built in", static_cast<int>(op)));
    if (!found.comm->remove_premul(op))
      return invalid_argument(
          fmt::format("op {} was not made on this communicator, or was "
                      "destroyed already",
                      static_cast<int>(op)));
    return {};
  });
}

TUTTI_NCCL_COLLECTIVE_NAMES(TUTTI_NCCL_WEAK_ALIAS)
