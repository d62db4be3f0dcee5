#include "src/cuda/kernels.cuh"

TUTTI_KERNELS_OF_ALL_TYPES(extremum)
