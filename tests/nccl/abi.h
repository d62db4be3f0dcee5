/* What the ABI of NCCL is, as assertions that hold with this project's header and with NVIDIA's, in
 * C and in C++. Parts that a version does not have yet are left out by its NCCL_VERSION_CODE. */
#include <nccl.h>
#include <stddef.h>

#ifdef __cplusplus
#define HOLDS(condition) static_assert(condition, #condition)
#else
#define HOLDS(condition) _Static_assert(condition, #condition)
#endif

HOLDS(sizeof(ncclUniqueId) == 128);
HOLDS(NCCL_UNIQUE_ID_BYTES == 128);
HOLDS(sizeof(ncclComm_t) == sizeof(void*) && sizeof(ncclWindow_t) == sizeof(void*));
HOLDS(sizeof(ncclResult_t) == 4 && sizeof(ncclDataType_t) == 4 && sizeof(ncclRedOp_t) == 4);
HOLDS(sizeof(ncclScalarResidence_t) == 4);

HOLDS(ncclSuccess == 0 && ncclUnhandledCudaError == 1 && ncclSystemError == 2);
HOLDS(ncclInternalError == 3 && ncclInvalidArgument == 4 && ncclInvalidUsage == 5);
HOLDS(ncclRemoteError == 6 && ncclInProgress == 7);
#if NCCL_VERSION_CODE >= 23000
HOLDS(ncclTimeout == 8 && ncclNumResults == 9);
#endif

HOLDS(ncclInt8 == 0 && ncclChar == 0 && ncclUint8 == 1 && ncclInt32 == 2 && ncclInt == 2);
HOLDS(ncclUint32 == 3 && ncclInt64 == 4 && ncclUint64 == 5 && ncclFloat16 == 6 && ncclHalf == 6);
HOLDS(ncclFloat32 == 7 && ncclFloat == 7 && ncclFloat64 == 8 && ncclDouble == 8);
HOLDS(ncclBfloat16 == 9 && ncclFloat8e4m3 == 10 && ncclFloat8e5m2 == 11 && ncclNumTypes == 12);
HOLDS(ncclSum == 0 && ncclProd == 1 && ncclMax == 2 && ncclMin == 3 && ncclAvg == 4);
HOLDS(ncclNumOps == 5 && ncclMaxRedOp == 0x7fffffff);
HOLDS(ncclScalarDevice == 0 && ncclScalarHostImmediate == 1);

HOLDS(NCCL_CONFIG_UNDEF_INT == INT_MIN && NCCL_SPLIT_NOCOLOR == -1);
HOLDS(NCCL_WIN_DEFAULT == 0 && NCCL_WIN_COLL_SYMMETRIC == 1 && NCCL_WIN_REQUIRED_ALIGNMENT == 4096);
HOLDS(NCCL_CTA_POLICY_DEFAULT == 0 && NCCL_CTA_POLICY_EFFICIENCY == 1 && NCCL_CTA_POLICY_ZERO == 2);
HOLDS(NCCL_SHRINK_DEFAULT == 0 && NCCL_SHRINK_ABORT == 1);
HOLDS(NCCL_VERSION(2, 8, 3) == 2803 && NCCL_VERSION(2, 28, 9) == 22809);

HOLDS(offsetof(ncclConfig_t, size) == 0 && offsetof(ncclConfig_t, magic) == 8);
HOLDS(offsetof(ncclConfig_t, version) == 12 && offsetof(ncclConfig_t, blocking) == 16);
HOLDS(offsetof(ncclConfig_t, cgaClusterSize) == 20 && offsetof(ncclConfig_t, minCTAs) == 24);
HOLDS(offsetof(ncclConfig_t, maxCTAs) == 28 && offsetof(ncclConfig_t, netName) == 32);
HOLDS(offsetof(ncclConfig_t, splitShare) == 40 && offsetof(ncclConfig_t, trafficClass) == 44);
HOLDS(offsetof(ncclConfig_t, commName) == 48 && offsetof(ncclConfig_t, collnetEnable) == 56);
HOLDS(offsetof(ncclConfig_t, CTAPolicy) == 60 && offsetof(ncclConfig_t, shrinkShare) == 64);
HOLDS(offsetof(ncclConfig_t, nvlsCTAs) == 68 && offsetof(ncclConfig_t, nChannelsPerNetPeer) == 72);
HOLDS(offsetof(ncclConfig_t, nvlinkCentricSched) == 76);
#if NCCL_VERSION_CODE < 22900
HOLDS(sizeof(ncclConfig_t) == 80);
#endif
#if NCCL_VERSION_CODE >= 22900
HOLDS(NCCL_REVOKE_DEFAULT == 0 && NCCL_WIN_STRICT_ORDERING == 2 && NCCL_SUSPEND_MEM == 1);
HOLDS(offsetof(ncclConfig_t, graphUsageMode) == 80 && offsetof(ncclConfig_t, numRmaCtx) == 84);
HOLDS(ncclStatGpuMemSuspend == 0 && ncclStatGpuMemSuspended == 1);
HOLDS(ncclStatGpuMemPersist == 2 && ncclStatGpuMemTotal == 3);
HOLDS(sizeof(ncclWaitSignalDesc_t) == 16 && offsetof(ncclWaitSignalDesc_t, opCnt) == 0);
HOLDS(offsetof(ncclWaitSignalDesc_t, peer) == 4 && offsetof(ncclWaitSignalDesc_t, sigIdx) == 8);
HOLDS(offsetof(ncclWaitSignalDesc_t, ctx) == 12);
#endif
#if NCCL_VERSION_CODE >= 23005
HOLDS(offsetof(ncclConfig_t, maxP2pPeers) == 88 &&
      offsetof(ncclConfig_t, graphStreamOrdering) == 92);
#endif
#if NCCL_VERSION_CODE >= 23102
HOLDS(offsetof(ncclConfig_t, launchOrderImplicit) == 96 &&
      offsetof(ncclConfig_t, numRmaSig) == 100);
HOLDS(offsetof(ncclConfig_t, rmaEagerInit) == 104 && offsetof(ncclConfig_t, hostCftMode) == 108);
HOLDS(offsetof(ncclCollConfig_t, ext) == 16 && offsetof(ncclCollConfig_t, minCTAs) == 24);
HOLDS(offsetof(ncclCollConfig_t, maxCTAs) == 28 && offsetof(ncclCollConfig_t, nvlsCTAs) == 32);
HOLDS(offsetof(ncclCollConfig_t, cgaClusterSize) == 36);
HOLDS(offsetof(ncclCollConfig_t, algSelection) == 40);
HOLDS(offsetof(ncclCollConfig_t, forceAlgSelection) == 48);
HOLDS(offsetof(ncclCollConfig_t, CTAPolicy) == 52);
HOLDS(offsetof(ncclCollConfig_t, userProfilerTag) == 56);
HOLDS(sizeof(ncclConfigExt_t) == 24 && offsetof(ncclConfigExt_t, val) == 16);
HOLDS(ncclHostCftDefault == INT_MIN && ncclHostCftFallback == 3);
#endif
#if NCCL_VERSION_CODE >= 23203
HOLDS(offsetof(ncclConfig_t, nvlsHostMode) == 112 && sizeof(ncclConfig_t) == 120);
HOLDS(offsetof(ncclCollConfig_t, launchCompletionEvent) == 64 && sizeof(ncclCollConfig_t) == 72);
HOLDS(NCCL_WIN_GIN_ONLY == 4 && NCCL_WIN_CFT_COUNTED == 8);
HOLDS(sizeof(ncclEncryptionConfig_t) == 32 && offsetof(ncclEncryptionConfig_t, psk) == 24);
HOLDS(NCCL_ENCRYPTION_MODE_NONE == 0 && NCCL_ENCRYPTION_MODE_PSK == 1);
HOLDS(ncclNvlsHostModeEnable == 0 && ncclNvlsHostModeDisable == INT_MAX);
#endif
HOLDS(sizeof(ncclSimInfo_t) == 24 && offsetof(ncclSimInfo_t, estimatedTime) == 16);
