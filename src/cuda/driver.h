// The CUDA driver behind a table of functions: loaded by dlopen, so that the library never needs
// CUDA where it is loaded, and replaceable by a fake in tests.
//
// Types and numbers are those of the driver's ABI, written down here so that the build needs no
// CUDA headers (tests/cuda compares them with cuda.h where that is installed).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tutti/status.h"

namespace tutti::cuda {

using DevicePtr = uint64_t;
using Context = struct ContextHandle*;
using Stream = struct StreamHandle*;  // cudaStream_t is the same
using Event = struct EventHandle*;
using Module = struct ModuleHandle*;
using Function = struct FunctionHandle*;
using Graph = struct GraphHandle*;
using GraphExec = struct GraphExecHandle*;
using HostFunction = void (*)(void*);

struct IpcMemHandle {
  char bytes[64];
};
struct DeviceUuid {
  char bytes[16];
};

// An entry of cuStreamBatchMemOp.
struct StreamMemOp {
  uint32_t operation = 0;  // k_wait_value_32, k_write_value_32
  uint32_t unused = 0;
  DevicePtr address = 0;
  uint64_t value = 0;
  uint32_t flags = 0;
  uint32_t unused2 = 0;
  DevicePtr alias = 0;
  uint64_t pad = 0;
};
static_assert(sizeof(StreamMemOp) == 48);
inline constexpr uint32_t k_wait_value_32 = 1, k_write_value_32 = 2;
// CU_STREAM_WAIT_VALUE_GEQ (cyclic: the difference is read as a signed number), _EQ
inline constexpr uint32_t k_wait_at_least = 0, k_wait_equal = 1;

// CUresult values that are told apart.
inline constexpr int k_success = 0, k_out_of_memory = 2, k_no_device = 100, k_no_binary = 209,
                     k_unsupported_ptx = 222, k_invalid_value = 1, k_not_ready = 600,
                     k_peer_access_enabled = 704, k_too_large = 720, k_invalid_context = 201,
                     k_invalid_handle = 400, k_stub_library = 34;
// CUdevice_attribute
inline constexpr int k_multiprocessors = 16, k_pci_bus = 33, k_pci_device = 34, k_pci_domain = 50,
                     k_capability_major = 75, k_capability_minor = 76, k_cooperative_launch = 95;
// CUpointer_attribute
inline constexpr int k_attribute_context = 1, k_attribute_memory_type = 2,
                     k_attribute_is_managed = 8, k_attribute_device = 9,
                     k_attribute_range_start = 11, k_attribute_range_size = 12;
inline constexpr uint32_t k_memory_type_host = 1, k_memory_type_device = 2;
inline constexpr unsigned k_event_disable_timing = 2, k_stream_non_blocking = 1;
inline constexpr unsigned k_host_portable = 1, k_host_mapped = 2;
inline constexpr unsigned k_ipc_lazy_peer_access = 1;
inline constexpr int k_capture_none = 0, k_capture_active = 1;  // status
inline constexpr int k_capture_global = 0, k_capture_thread_local = 1,
                     k_capture_relaxed = 2;  // mode

// member, symbol, arguments
#define TUTTI_CUDA_FUNCTIONS(F)                                                              \
  F(init, cuInit, (unsigned))                                                                \
  F(driver_version, cuDriverGetVersion, (int*))                                              \
  F(error_name, cuGetErrorName, (int, const char**))                                         \
  F(error_string, cuGetErrorString, (int, const char**))                                     \
  F(device_count, cuDeviceGetCount, (int*))                                                  \
  F(device_get, cuDeviceGet, (int*, int))                                                    \
  F(device_attribute, cuDeviceGetAttribute, (int*, int, int))                                \
  F(device_name, cuDeviceGetName, (char*, int, int))                                         \
  F(device_uuid, cuDeviceGetUuid_v2, (DeviceUuid*, int))                                     \
  F(device_can_access_peer, cuDeviceCanAccessPeer, (int*, int, int))                         \
  F(primary_retain, cuDevicePrimaryCtxRetain, (Context*, int))                               \
  F(primary_release, cuDevicePrimaryCtxRelease_v2, (int))                                    \
  F(context_push, cuCtxPushCurrent_v2, (Context))                                            \
  F(context_pop, cuCtxPopCurrent_v2, (Context*))                                             \
  F(context_current, cuCtxGetCurrent, (Context*))                                            \
  F(context_device, cuCtxGetDevice, (int*))                                                  \
  F(enable_peer_access, cuCtxEnablePeerAccess, (Context, unsigned))                          \
  F(stream_create, cuStreamCreate, (Stream*, unsigned))                                      \
  F(stream_destroy, cuStreamDestroy_v2, (Stream))                                            \
  F(stream_synchronize, cuStreamSynchronize, (Stream))                                       \
  F(stream_query, cuStreamQuery, (Stream))                                                   \
  F(stream_wait_event, cuStreamWaitEvent, (Stream, Event, unsigned))                         \
  F(stream_is_capturing, cuStreamIsCapturing, (Stream, int*))                                \
  F(stream_context, cuStreamGetCtx, (Stream, Context*))                                      \
  F(stream_memory_ops, cuStreamBatchMemOp_v2, (Stream, unsigned, StreamMemOp*, unsigned))    \
  F(stream_begin_capture, cuStreamBeginCapture_v2, (Stream, int))                            \
  F(stream_end_capture, cuStreamEndCapture, (Stream, Graph*))                                \
  F(exchange_capture_mode, cuThreadExchangeStreamCaptureMode, (int*))                        \
  F(graph_instantiate, cuGraphInstantiateWithFlags, (GraphExec*, Graph, unsigned long long)) \
  F(graph_launch, cuGraphLaunch, (GraphExec, Stream))                                        \
  F(graph_exec_destroy, cuGraphExecDestroy, (GraphExec))                                     \
  F(graph_destroy, cuGraphDestroy, (Graph))                                                  \
  F(event_create, cuEventCreate, (Event*, unsigned))                                         \
  F(event_destroy, cuEventDestroy_v2, (Event))                                               \
  F(event_record, cuEventRecord, (Event, Stream))                                            \
  F(event_query, cuEventQuery, (Event))                                                      \
  F(event_synchronize, cuEventSynchronize, (Event))                                          \
  F(event_elapsed, cuEventElapsedTime, (float*, Event, Event))                               \
  F(memory_alloc, cuMemAlloc_v2, (DevicePtr*, size_t))                                       \
  F(memory_free, cuMemFree_v2, (DevicePtr))                                                  \
  F(memory_range, cuMemGetAddressRange_v2, (DevicePtr*, size_t*, DevicePtr))                 \
  F(host_alloc, cuMemHostAlloc, (void**, size_t, unsigned))                                  \
  F(host_free, cuMemFreeHost, (void*))                                                       \
  F(host_register, cuMemHostRegister_v2, (void*, size_t, unsigned))                          \
  F(host_unregister, cuMemHostUnregister, (void*))                                           \
  F(host_device_pointer, cuMemHostGetDevicePointer_v2, (DevicePtr*, void*, unsigned))        \
  F(copy, cuMemcpyAsync, (DevicePtr, DevicePtr, size_t, Stream))                             \
  F(copy_to_device, cuMemcpyHtoDAsync_v2, (DevicePtr, const void*, size_t, Stream))          \
  F(copy_to_host, cuMemcpyDtoHAsync_v2, (void*, DevicePtr, size_t, Stream))                  \
  F(memory_set, cuMemsetD8Async, (DevicePtr, unsigned char, size_t, Stream))                 \
  F(pointer_attributes, cuPointerGetAttributes, (unsigned, int*, void**, DevicePtr))         \
  F(ipc_get, cuIpcGetMemHandle, (IpcMemHandle*, DevicePtr))                                  \
  F(ipc_open, cuIpcOpenMemHandle_v2, (DevicePtr*, IpcMemHandle, unsigned))                   \
  F(ipc_close, cuIpcCloseMemHandle, (DevicePtr))                                             \
  F(module_load, cuModuleLoadDataEx, (Module*, const void*, unsigned, int*, void**))         \
  F(module_unload, cuModuleUnload, (Module))                                                 \
  F(module_function, cuModuleGetFunction, (Function*, Module, const char*))                  \
  F(occupancy, cuOccupancyMaxActiveBlocksPerMultiprocessor, (int*, Function, int, size_t))   \
  F(launch, cuLaunchKernel,                                                                  \
    (Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, \
     void**, void**))                                                                        \
  F(launch_cooperative, cuLaunchCooperativeKernel,                                           \
    (Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, \
     void**))                                                                                \
  F(launch_host, cuLaunchHostFunc, (Stream, HostFunction, void*))

struct Driver {
#define TUTTI_CUDA_MEMBER(member, symbol, arguments) int(*member) arguments = nullptr;
  TUTTI_CUDA_FUNCTIONS(TUTTI_CUDA_MEMBER)
#undef TUTTI_CUDA_MEMBER

  // ok, or what failed: "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (out of memory)".
  Status check(int result, const char* function) const;
};

// libcuda.so.1, or `library`. The table stays valid until the process ends.
// Errors: device_error naming the library, or the first function that it lacks.
Result<std::shared_ptr<const Driver>> load_driver(const char* library = "libcuda.so.1");

}  // namespace tutti::cuda
