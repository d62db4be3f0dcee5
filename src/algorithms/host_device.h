// TUTTI_HD marks functions that must also run on a device: the schedules. Empty without CUDA.
#pragma once

#if defined(__CUDACC__)
#define TUTTI_HD __host__ __device__
#else
#define TUTTI_HD
#endif
