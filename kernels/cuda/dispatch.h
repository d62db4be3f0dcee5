// From the values of a call to the types of a kernel, in one place.
#pragma once

#include "kernels/cuda/arithmetic.h"

namespace tutti::cuda {

// body.template operator()<DType, Family>() for the given ones.
template <class Body>
void dispatch(DType dtype, Family family, Body&& body) {
  const auto with_family = [&]<DType kType>() {
    switch (family) {
      case Family::sum:
        return body.template operator()<kType, Family::sum>();
      case Family::prod:
        return body.template operator()<kType, Family::prod>();
      case Family::extremum:
        return body.template operator()<kType, Family::extremum>();
    }
  };
  switch (dtype) {
#define TUTTI_CASE(type) \
  case DType::type:      \
    return with_family.template operator()<DType::type>();
    TUTTI_CASE(int8)
    TUTTI_CASE(uint8)
    TUTTI_CASE(int32)
    TUTTI_CASE(uint32)
    TUTTI_CASE(int64)
    TUTTI_CASE(uint64)
    TUTTI_CASE(float16)
    TUTTI_CASE(float32)
    TUTTI_CASE(float64)
    TUTTI_CASE(bfloat16)
    TUTTI_CASE(float8_e4m3)
    TUTTI_CASE(float8_e5m2)
#undef TUTTI_CASE
  }
}

}  // namespace tutti::cuda
