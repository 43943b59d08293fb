"""Faults in the kernels of primitives/."""

from __future__ import annotations

from .kinds import PrimitiveFault

PRIMITIVE_FAULTS = {
    "no barrier between writing and reading shared memory": PrimitiveFault(
        "block.cu",
        "  held[threadIdx.x] = in[first + threadIdx.x];\n  <|__syncthreads();|>\n",
        "",
        "FAIL reverse",
    ),
    "a barrier that one thread does not reach": PrimitiveFault(
        "block.cu",
        "    <|__syncthreads();|>\n    if (static_cast<int>(threadIdx.x) < distance)",
        "if (threadIdx.x != 3) __syncthreads();",
        "kernel primitives::tree_kernel: deadlock: of 128 threads 1 have left the kernel",
    ),
    "less dynamic shared memory than is used": PrimitiveFault(
        "block.cu",
        ".dynamic_shared = (<|(kCount - 1) * stride + 1|>) * sizeof(float)",
        "(kCount - 1) * stride",
        "has written outside its dynamic shared memory",
    ),
    "more dynamic shared memory than there is": PrimitiveFault(
        "block.cu",
        ".dynamic_shared = (<|(kCount - 1) * stride + 1|>) * sizeof(float)",
        "kCount * stride * 10",
        "gdext: CUDA kernel tree",
    ),
    "a warp that does not wait for the one before": PrimitiveFault(
        "block.cu",
        "if (warp > 0) ptx::barrier_sync(warp, 2 * kWarp);",
        "",
        "FAIL relay",
    ),
    "a vector load at an odd element": PrimitiveFault(
        "block.cu",
        "    float4 v = *reinterpret_cast<const float4*>(<|in + i|>);\n",
        "in + i - (i > 0)",
        "misaligned address",
    ),
    "no tail after the vectors": PrimitiveFault(
        "block.cu", "for (int j = i; j < n; ++j) out[j] = 2 * in[j];", "", "FAIL vectors"
    ),
    "a lane that votes with another's mask": PrimitiveFault(
        "warp.cu",
        "<|t % 2|> ? 0xaaaaaaaau : 0x55555555u",
        "t % 2 || t == 4",
        "__ballot_sync: lane 4 is not in its own mask",
    ),
    "no first barrier of the cluster": PrimitiveFault(
        "cluster.cu", "ptx::cluster_sync();", "", "FAIL ring"
    ),
    "a cluster's blocks that do not wait for each other": PrimitiveFault(
        "cluster.cu", "ptx::cluster_wait();", "", "ring"
    ),
    "no barrier of the grid": PrimitiveFault(
        "cluster.cu", "cooperative_groups::this_grid().sync();", "", "FAIL phases"
    ),
    "no wait for a copy": PrimitiveFault("copies.cu", "ptx::cp_async_wait<1>();", "", "FAIL async"),
    "a wait for one copy too few": PrimitiveFault(
        "copies.cu", "ptx::cp_async_wait<1>();", "ptx::cp_async_wait<2>();", "FAIL async"
    ),
    "no barrier after the wait for a copy": PrimitiveFault(
        "copies.cu",
        "    ptx::cp_async_wait<1>();\n    <|__syncthreads();|>\n",
        "",
        "FAIL async",
    ),
    "a copy that forgets the last elements": PrimitiveFault(
        "copies.cu", "n - first < 4 ? <|n - first|> : 4", "0", "FAIL async"
    ),
    "no wait for a bulk copy": PrimitiveFault(
        "copies.cu", "ptx::mbarrier_wait(&full[stage], parity);", "", "bulk"
    ),
    "a bulk copy over what is still read": PrimitiveFault(
        "copies.cu", "ptx::mbarrier_wait(&empty[stage], parity);", "", "bulk"
    ),
    "a box that is not awaited": PrimitiveFault(
        "copies.cu", "ptx::mbarrier_wait(&full, 0);", "", "box"
    ),
    "a box read without its swizzle": PrimitiveFault(
        "copies.cu",
        "ptx::swizzled(2 * i, <|ptx::Swizzle::bytes128|>)",
        "ptx::Swizzle::none",
        "FAIL box",
    ),
    "a wrong index of a fragment": PrimitiveFault(
        "mma.cu",
        "a[(g + 8 * (<|i % 2|>)) * kK + t + 4 * (i / 2)]",
        "i / 2",
        "FAIL mma tf32",
    ),
    "a wrong order of two neighbours in a fragment": PrimitiveFault(
        "mma.cu",
        "pair(b[2 * t * kN + g], b[(2 * t + 1) * kN + g])",
        "pair(b[(2 * t + 1) * kN + g], b[2 * t * kN + g])",
        "FAIL mma f16 k8",
    ),
    "ldmatrix of rows in a wrong order": PrimitiveFault(
        "mma.cu",
        "&a_tile[lane % 16][lane / 16 * 8]",
        "&a_tile[lane / 2][lane % 2 * 8]",
        "FAIL mma ",
    ),
    "no wait for wgmma": PrimitiveFault(
        "wgmma.cu",
        "  multiply(true);\n  <|ptx::wgmma_wait<0>();|>\n",
        "",
        "wgmma",
    ),
    "no barrier between writing tiles and wgmma": PrimitiveFault(
        "wgmma.cu", "<|ptx::fence_async();\n  __syncthreads();|>\n", "", "FAIL wgmma"
    ),
    "tiles of wgmma that are not swizzled": PrimitiveFault(
        "wgmma.cu",
        "along % per_line() * sizeof(T),\n                         <|swizzle|>);",
        "Swizzle::none",
        "FAIL wgmma",
    ),
}
