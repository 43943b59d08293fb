// Products of matrices by a warpgroup (128 threads whose first's number 128 divides), straight out
// of shared memory and beside the threads: D = A B, or D += A B. PTX ISA, "wgmma.mma_async".
//
// A is [64,K], B is [K,N], K is 8 for tf32 and 16 for 16-bit types. Of D, float32 [64,N], warp w of
// the four holds rows 16 w to 16 w + 15; register 4 j + i of a lane, with g = lane / 4 and
// t = lane % 4, is the element (16 w + g + 8 (i / 2), 8 j + 2 t + i % 2): in each of the N / 8
// columns of tiles what mma's D is ("Register Fragments for wgmma.mma_async.m64nNk16"). A thread's
// array of N / 2 floats chooses N.
//
// Order: wgmma_fence; products; wgmma_commit; wgmma_wait, and only then D. Needs sm_90a: elsewhere
// all of these trap.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx/descriptor.cuh"

namespace gdext::cuda::ptx {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GDEXT_WGMMA(instruction) asm volatile(instruction::: "memory")
#else
#define GDEXT_WGMMA(instruction) __trap()
#endif

// Before the first product, and after the threads have written D.
__device__ inline void wgmma_fence() { GDEXT_WGMMA("wgmma.fence.sync.aligned;"); }
__device__ inline void wgmma_commit() { GDEXT_WGMMA("wgmma.commit_group.sync.aligned;"); }
// Until at most kGroups of the groups committed, the last, are under way.
template <int kGroups>
__device__ void wgmma_wait() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#else
  __trap();
#endif
}
#undef GDEXT_WGMMA

// Changes how many registers each thread of the warpgroup may use from here on: a multiple of 8.
// The block has as many as it was launched with: more are waited for until others have given up
// theirs.
template <int kRegisters>
__device__ void more_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
  __trap();
#endif
}
template <int kRegisters>
__device__ void fewer_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
  __trap();
#endif
}

// D as operands, and how the instruction names them.
#define GDEXT_D32_NAMES                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define GDEXT_D32                                                                                 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define GDEXT_D64_NAMES                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "  \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "  \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "  \
  "%62, %63}"
#define GDEXT_D64                                                                                 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),  \
      "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),  \
      "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),  \
      "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),  \
      "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define GDEXT_D128_NAMES                                                         \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "  \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "  \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "  \
  "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, "  \
  "%77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, "  \
  "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, " \
  "%106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, "     \
  "%118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
#define GDEXT_D128                                                                                \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),  \
      "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),  \
      "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),  \
      "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),  \
      "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),  \
      "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]),  \
      "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]),  \
      "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]),  \
      "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]),  \
      "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]),  \
      "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]),          \
      "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]),         \
      "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]),         \
      "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]),         \
      "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GDEXT_WGMMA_ASM(shape_and_types, names, outputs, a, b, add, immediates, ...)     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" add                                  \
               ", 0;\n"                                                                  \
               "wgmma.mma_async.sync.aligned." shape_and_types " " names ", %" a ", %" b \
               ", p, 1, 1" immediates ";\n}\n"                                           \
               : outputs                                                                 \
               : "l"(a_descriptor), "l"(b_descriptor),                                   \
                 "r"(static_cast<int>(accumulate))__VA_OPT__(, ) __VA_ARGS__)
#else
#define GDEXT_WGMMA_ASM(...) \
  (void)d, (void)a_descriptor, (void)b_descriptor, (void)accumulate, __trap()
#endif

// D = A B (+ D if accumulate), both k-major. The operands keep their high 19 bits: to_tf32 first.
#define GDEXT_WGMMA_TF32(N, registers, a, b, add)                                                \
  __device__ inline void wgmma_tf32(float (&d)[registers], uint64_t a_descriptor,                \
                                    uint64_t b_descriptor, bool accumulate) {                    \
    GDEXT_WGMMA_ASM("m64n" N "k8.f32.tf32.tf32", GDEXT_D##registers##_NAMES, GDEXT_D##registers, \
                    a, b, add, "");                                                              \
  }
GDEXT_WGMMA_TF32("64", 32, "32", "33", "34")
GDEXT_WGMMA_TF32("128", 64, "64", "65", "66")
GDEXT_WGMMA_TF32("256", 128, "128", "129", "130")
#undef GDEXT_WGMMA_TF32

// The same in 16 bits; kAIsMnMajor, kBIsMnMajor: 1 where that operand's adjacent elements are along
// its rows or columns rather than along k.
#define GDEXT_WGMMA_16(name, type, N, registers, a, b, add, a_major, b_major)                     \
  template <int kAIsMnMajor, int kBIsMnMajor>                                                     \
  __device__ void name(float (&d)[registers], uint64_t a_descriptor, uint64_t b_descriptor,       \
                       bool accumulate) {                                                         \
    GDEXT_WGMMA_ASM("m64n" N "k16.f32." type "." type, GDEXT_D##registers##_NAMES,                \
                    GDEXT_D##registers, a, b, add, ", %" a_major ", %" b_major, "n"(kAIsMnMajor), \
                    "n"(kBIsMnMajor));                                                            \
  }
GDEXT_WGMMA_16(wgmma_bf16, "bf16", "64", 32, "32", "33", "34", "35", "36")
GDEXT_WGMMA_16(wgmma_bf16, "bf16", "128", 64, "64", "65", "66", "67", "68")
GDEXT_WGMMA_16(wgmma_bf16, "bf16", "256", 128, "128", "129", "130", "131", "132")
GDEXT_WGMMA_16(wgmma_f16, "f16", "64", 32, "32", "33", "34", "35", "36")
GDEXT_WGMMA_16(wgmma_f16, "f16", "128", 64, "64", "65", "66", "67", "68")
GDEXT_WGMMA_16(wgmma_f16, "f16", "256", 128, "128", "129", "130", "131", "132")
#undef GDEXT_WGMMA_16

#undef GDEXT_WGMMA_ASM
#undef GDEXT_D32
#undef GDEXT_D32_NAMES
#undef GDEXT_D64
#undef GDEXT_D64_NAMES
#undef GDEXT_D128
#undef GDEXT_D128_NAMES

}  // namespace gdext::cuda::ptx
