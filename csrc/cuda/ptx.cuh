// The instructions that C++ has no words for, each behind a function: inline PTX is here and in
// ptx/ alone. tests/cuda_on_cpu/cuda/ptx.cuh defines the same functions for the CPU.
//
// Pointers are generic: functions whose operand must be in shared memory say so in its name. Where
// an architecture lacks an instruction the function traps; what each needs is written above it.
#pragma once
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/shared.cuh"
#include "cuda/ptx/tensor.cuh"
#include "cuda/ptx/wgmma.cuh"
