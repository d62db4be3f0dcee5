#include "src/cuda/kernels.cuh"
#include "src/cuda/transfers.h"

TUTTI_KERNELS_OF_ALL_TYPES(sum)

// Moves bytes: one for all types and operators.
extern "C" __global__ void __launch_bounds__(tutti::cuda::k_block_threads)
    tutti_transfers(const __grid_constant__ tutti::cuda::TransferLaunch launch) {
  using namespace tutti::cuda;
  __shared__ TransferState state;
  TransferBlock<DeviceMemory, DeviceBlock>(launch, blockIdx.x, gridDim.x, state, DeviceBlock()).run();
}
