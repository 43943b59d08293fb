// Tensor maps of two dimensions and 16-bit types, and copies of boxes by them.
#pragma once
#include <cuda.h>

#include "emulation.h"

namespace emulation {

void tensor_load(void* shared, const CUtensorMap& map, int near, int far, uint64_t* barrier,
                 Where where);

}  // namespace emulation
