// The kernels for AArch64, whose every processor has NEON.
#include "cpu/kernels.h"

#if defined(__aarch64__)
#define GDEXT_ISA neon
#define GDEXT_VEC_BYTES 16
#include "cpu/kernels.inl"
#endif
