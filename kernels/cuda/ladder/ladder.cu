// The rungs as kernels: tutti_ladder_v1_float32 ...
#include "kernels/cuda/ladder/ladder.h"

#define TUTTI_RUNG(rung, dtype)                                                                  \
  extern "C" __global__ void __launch_bounds__(512)                                              \
      tutti_ladder_##rung##_##dtype(const __grid_constant__ tutti::cuda::ladder::Sum sum) {      \
    tutti::cuda::ladder::run<tutti::DType::dtype>(                                               \
        tutti::cuda::ladder::Rung::rung,                                                         \
        {blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x}, sum);                   \
  }
#define TUTTI_RUNGS(dtype)      \
  TUTTI_RUNG(reference, dtype)  \
  TUTTI_RUNG(v1, dtype)         \
  TUTTI_RUNG(v2, dtype)         \
  TUTTI_RUNG(promoted, dtype)
TUTTI_RUNGS(float32)
TUTTI_RUNGS(bfloat16)
