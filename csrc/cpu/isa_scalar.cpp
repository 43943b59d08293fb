// The kernels for whatever the compiler targets by default, one element at a time: the reference
// that the others must agree with, and what runs where no better instruction set is found.
#include "cpu/kernels.h"

#define GDEXT_ISA scalar
#define GDEXT_VEC_BYTES 0
#include "cpu/kernels.inl"
