// Every name that libnccl.so.2 exports: X(name without prefix, NCCL version that introduced it).
// Version 0: not in a real library's export list (RCCL's spellings; declared but not exported).
// The exports, the weak aliases and the tests are made from these lists.
#pragma once

// One name a line.
// clang-format off
#define TUTTI_NCCL_LIBRARY_NAMES(X) \
  X(GetVersion, 2408)               \
  X(GetErrorString, 2408)           \
  X(GetLastError, 21403)            \
  X(ResetDebugInit, 22403)          \
  X(SetEncryption, 23203)

#define TUTTI_NCCL_LIFE_NAMES(X) \
  X(GetUniqueId, 2408)           \
  X(CommInitRank, 2408)          \
  X(CommInitAll, 2408)           \
  X(CommInitRankConfig, 21403)   \
  X(CommInitRankScalable, 22304) \
  X(CommFinalize, 21403)         \
  X(CommDestroy, 2408)           \
  X(CommAbort, 2408)             \
  X(CommGetAsyncError, 2408)     \
  X(CommCount, 2408)             \
  X(CommCuDevice, 2408)          \
  X(CommUserRank, 2408)          \
  X(CommSuspend, 22907)          \
  X(CommResume, 22907)           \
  X(CommMemStats, 22907)

#define TUTTI_NCCL_DESCENDANT_NAMES(X) \
  X(CommSplit, 21805)                  \
  X(CommShrink, 22707)                 \
  X(CommRevoke, 22809)                 \
  X(CommGetUniqueId, 22907)            \
  X(CommGrow, 22907)

#define TUTTI_NCCL_MEMORY_NAMES(X) \
  X(MemAlloc, 21904)               \
  X(MemFree, 21904)                \
  X(CommRegister, 21904)           \
  X(CommDeregister, 21904)         \
  X(CommWindowRegister, 22707)     \
  X(CommWindowDeregister, 22707)   \
  X(WinGetUserPtr, 22907)

#define TUTTI_NCCL_COLLECTIVE_NAMES(X) \
  X(Reduce, 2408)                      \
  X(Bcast, 2408)                       \
  X(Broadcast, 2408)                   \
  X(AllReduce, 2408)                   \
  X(ReduceScatter, 2408)               \
  X(AllGather, 2408)                   \
  X(AlltoAll, 22809)                   \
  X(Gather, 22809)                     \
  X(Scatter, 22809)                    \
  X(AllReduceConfig, 23102)            \
  X(BroadcastConfig, 23102)            \
  X(ReduceConfig, 23102)               \
  X(AllGatherConfig, 23102)            \
  X(ReduceScatterConfig, 23102)        \
  X(AlltoAllConfig, 23102)             \
  X(GatherConfig, 23102)               \
  X(ScatterConfig, 23102)              \
  X(AllToAll, 0)                       \
  X(AllToAllv, 0)                      \
  X(RedOpCreatePreMulSum, 21103)       \
  X(RedOpDestroy, 21103)

#define TUTTI_NCCL_TRANSFER_NAMES(X) \
  X(Send, 2708)                      \
  X(Recv, 2708)                      \
  X(PutSignal, 22907)                \
  X(Signal, 22907)                   \
  X(WaitSignal, 22907)               \
  X(GroupStart, 2408)                \
  X(GroupEnd, 2408)                  \
  X(GroupSimulateEnd, 22203)

#define TUTTI_NCCL_DEVICE_NAMES(X)       \
  X(CommQueryProperties, 22907)          \
  X(DevCommCreate, 22809)                \
  X(DevCommDestroy, 22809)               \
  X(GetLsaMultimemDevicePointer, 22907)  \
  X(GetMultimemDevicePointer, 22907)     \
  X(GetLsaDevicePointer, 22907)          \
  X(GetPeerDevicePointer, 22907)         \
  X(GetMultimemDeviceLeInfo, 23102)      \
  X(GetCftDeviceLeInfo, 23102)           \
  X(GetPeerDeviceLeInfo, 23102)          \
  X(TeamWorld, 22809)                    \
  X(TeamLsa, 22809)                      \
  X(TeamRail, 22809)                     \
  X(TeamCft, 23102)                      \
  X(TeamCftMultimem, 23102)              \
  X(TeamRankToWorld, 22809)              \
  X(TeamRankToLsa, 22809)                \
  X(LsaBarrierCreateRequirement, 22809)  \
  X(GinBarrierCreateRequirement, 22809)  \
  X(CftBarrierCreateRequirement, 0)      \
  X(GinOutboxCreateRequirement, 23007)   \
  X(GinInboxA2ACreateRequirement, 23007) \
  X(LLA2ACreateRequirement, 22809)       \
  X(LLA2ACalcSlots, 22809)

#define TUTTI_NCCL_PARAMETER_NAMES(X) \
  X(ParamBind, 23007)                 \
  X(ParamGetI8, 23007)                \
  X(ParamGetI16, 23007)               \
  X(ParamGetI32, 23007)               \
  X(ParamGetI64, 23007)               \
  X(ParamGetU8, 23007)                \
  X(ParamGetU16, 23007)               \
  X(ParamGetU32, 23007)               \
  X(ParamGetU64, 23007)               \
  X(ParamGetStr, 23007)               \
  X(ParamGet, 23007)                  \
  X(ParamGetParameter, 23007)         \
  X(ParamGetAllParameterKeys, 23007)  \
  X(ParamDumpAll, 23007)

#define TUTTI_NCCL_NAMES(X)      \
  TUTTI_NCCL_LIBRARY_NAMES(X)    \
  TUTTI_NCCL_LIFE_NAMES(X)       \
  TUTTI_NCCL_DESCENDANT_NAMES(X) \
  TUTTI_NCCL_MEMORY_NAMES(X)     \
  TUTTI_NCCL_COLLECTIVE_NAMES(X) \
  TUTTI_NCCL_TRANSFER_NAMES(X)   \
  TUTTI_NCCL_DEVICE_NAMES(X)     \
  TUTTI_NCCL_PARAMETER_NAMES(X)
// clang-format on
