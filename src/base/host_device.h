// TUTTI_HD marks functions that must also run on a device: schedules, arithmetic, the interpreter
// of device programs. Empty without CUDA. TUTTI_HD_UNROLL(n) unrolls the loop that follows,
// everywhere.
#pragma once

#if defined(__CUDACC__)
#define TUTTI_HD __host__ __device__
#else
#define TUTTI_HD
#endif

#define TUTTI_PRAGMA(text) _Pragma(#text)
#if defined(__CUDACC__) || defined(__clang__)
#define TUTTI_HD_UNROLL(n) TUTTI_PRAGMA(unroll n)
#else
#define TUTTI_HD_UNROLL(n) TUTTI_PRAGMA(GCC unroll n)
#endif
