// The kernels: the interpreter, the shots and the direct passes on a device, for one family of operators and all
// types. Each family is a file of its own, so that they compile at the same time.
#pragma once

#include "src/cuda/interpreter.h"
#include "src/cuda/launch.h"
#include "src/cuda/shots.h"

namespace tutti::cuda {

// Flags in memory that other devices and processes reach: system scope.
struct DeviceMemory {
  __device__ static uint64_t acquire(const uint64_t* p) {
    uint64_t v;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
  }
  __device__ static void release(uint64_t* p, uint64_t v) {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
  }
  __device__ static uint64_t load(const uint64_t* p) {
    uint64_t v;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
  }
  __device__ static void store(uint64_t* p, uint64_t v) {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
  }
  __device__ static void load_pair(const uint64_t* p, uint64_t& first, uint64_t& second) {
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(first), "=l"(second)
                 : "l"(p)
                 : "memory");
  }
  __device__ static void store_pair(uint64_t* p, uint64_t first, uint64_t second) {
    asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(p), "l"(first), "l"(second)
                 : "memory");
  }
  static constexpr uint32_t k_long_wait = 4096;
  __device__ static void pause() {}
};

class DeviceBlock {
 public:
  __device__ uint32_t thread() const { return threadIdx.x; }
  __device__ uint32_t threads() const { return blockDim.x; }
  __device__ void sync() { __syncthreads(); }
  __device__ bool any(bool vote) { return __syncthreads_or(vote) != 0; }
};

template <DType kType, Family kFamily>
__device__ void plan_kernel(const PlanLaunch& launch) {
  __shared__ BlockState state;
  const uint32_t workers = launch.cut.workers;
  const uint32_t worker = blockIdx.x % workers, lane_of = blockIdx.x / workers;
  const DeviceCall& call = launch.calls[lane_of / launch.lanes];
  Worker<kType, kFamily, DeviceMemory, DeviceBlock>(launch.cut, call, launch.op, lane_of % launch.lanes,
                                                    worker, state, DeviceBlock())
      .run(launch.range);
}

// Rank after rank, block after block.
template <DType kType, Family kFamily>
__device__ void shots_kernel(const ShotLaunch& launch) {
  const ShotCall& call = launch.calls[blockIdx.x / launch.blocks];
  ShotBlock<kType, kFamily, DeviceMemory, DeviceBlock>(launch, call, blockIdx.x % launch.blocks,
                                                       DeviceBlock())
      .run();
}

// grid.y: ranks here times jobs per rank.
template <DType kType, Family kFamily>
__device__ void direct_kernel(const DirectCall& call) {
  __shared__ DirectState state;
  DeviceBlock block;
  const uint32_t each = direct_jobs_per_rank(call.collective, call.ranks);
  const DirectJob job = direct_job(call, call.here[blockIdx.y / each], blockIdx.y % each);
  run_direct_job<kType, kFamily>(call, job, state, block,
                                 {blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x});
}

}  // namespace tutti::cuda

// Kernels have C names, by which the host finds them: tutti_plan_sum_float32 ...
#define TUTTI_KERNELS(dtype, family)                                                             \
  extern "C" __global__ void __launch_bounds__(tutti::cuda::k_block_threads)                     \
      tutti_plan_##family##_##dtype(const __grid_constant__ tutti::cuda::PlanLaunch launch) {               \
    tutti::cuda::plan_kernel<tutti::DType::dtype, tutti::cuda::Family::family>(launch);          \
  }                                                                                              \
  extern "C" __global__ void __launch_bounds__(tutti::cuda::k_block_threads)                     \
      tutti_shots_##family##_##dtype(const __grid_constant__ tutti::cuda::ShotLaunch launch) {   \
    tutti::cuda::shots_kernel<tutti::DType::dtype, tutti::cuda::Family::family>(launch);         \
  }                                                                                              \
  extern "C" __global__ void __launch_bounds__(tutti::cuda::k_block_threads)                     \
      tutti_direct_##family##_##dtype(const __grid_constant__ tutti::cuda::DirectCall call) {               \
    tutti::cuda::direct_kernel<tutti::DType::dtype, tutti::cuda::Family::family>(call);          \
  }
#define TUTTI_KERNELS_OF_ALL_TYPES(family) \
  TUTTI_KERNELS(int8, family)              \
  TUTTI_KERNELS(uint8, family)             \
  TUTTI_KERNELS(int32, family)             \
  TUTTI_KERNELS(uint32, family)            \
  TUTTI_KERNELS(int64, family)             \
  TUTTI_KERNELS(uint64, family)            \
  TUTTI_KERNELS(float16, family)           \
  TUTTI_KERNELS(float32, family)           \
  TUTTI_KERNELS(float64, family)           \
  TUTTI_KERNELS(bfloat16, family)          \
  TUTTI_KERNELS(float8_e4m3, family)       \
  TUTTI_KERNELS(float8_e5m2, family)
