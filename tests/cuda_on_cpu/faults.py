"""Faults for tests/test_cuda_on_cpu.py to plant: in the ops, and in the kernels of primitives/."""

from __future__ import annotations

from dataclasses import dataclass

from native_build import Fault


@dataclass(frozen=True)
class OpFault(Fault):
    """In csrc. `op` must fail on `dtype`, saying `says`. `unit`: the .cu that has it, if not the
    op's own. `seed`: of a schedule that shows it."""

    op: str
    says: str = "FAIL {op} "
    unit: str | None = None
    seed: int = 1
    dtype: str = "f32"


@dataclass(frozen=True)
class PrimitiveFault(Fault):
    """In primitives/. One of its tests must fail, saying `says`, whatever the seed.

    Where the schedule decides whether the numbers or the emulation's own checks show it first,
    `says` is what both name.
    """

    says: str


def resident_fault(
    file: str, old: str, new: str, says: str = "FAIL mlp ", seed: int = 1
) -> OpFault:
    return OpFault(f"cuda/{file}", old, new, "mlp_resident", says, "mlp_resident", seed)


OP_FAULTS = {
    "no barrier between storing tiles and multiplying them": OpFault(
        "cuda/gemm_plain.cuh",
        "    b_loader.store(b_tile);\n    __syncthreads();\n",
        "    b_loader.store(b_tile);\n",
        "linear",
    ),
    "no barrier before the result takes the tiles' place": OpFault(
        "cuda/gemm_plain.cuh",
        "  }\n\n  __syncthreads();\n#pragma unroll\n",
        "  }\n\n#pragma unroll\n",
        "linear",
    ),
    "a tile that ends one product too early": OpFault(
        "cuda/gemm_plain.cuh",
        "k_ + i * next_k_ < depth_;",
        "k_ + i * next_k_ < depth_ - 1;",
        "linear",
    ),
    "a result that ends one column too early": OpFault(
        "cuda/gemm_plain.cuh", "if (m < M && n < N)", "if (m < M && n < N - 1)", "linear"
    ),
    "no barrier before the next reduction of a block": OpFault(
        "cuda/common.cuh",
        "  __syncthreads();  // the next call writes of_warp again\n",
        "",
        "mse",
    ),
    "threads that leave before a barrier": OpFault(
        "cuda/reduce.cuh",
        "  const double weights = weighted",
        "  if (threadIdx.x != 0) return;\n  const double weights = weighted",
        "mse",
        says="has left the kernel",
    ),
    "the sign of cross_entropy's dx": OpFault(
        "cuda/cross_entropy.cu",
        "(a * std::exp(log_p) - sample.q(c))",
        "(sample.q(c) - a * std::exp(log_p))",
        "cross_entropy",
    ),
    "the sign of the update": OpFault("common/sgd_rule.h", "p -= lr * d;", "p += lr * d;", "sgd"),
    "a long list's tables laid over one another": OpFault(
        "cuda/sgd.cu",
        "table.entries + i,",
        "table.entries,",
        "sgd",
        says="",  # it crashes
    ),
    "a chunk counted from the wrong tensor": OpFault(
        "cuda/sgd_table.cuh",
        "    chunk -= chunks;\n",
        "",
        "sgd",
        says="",  # it crashes
    ),
    "a missing tail": OpFault("cuda/sgd.cu", "&& j < high;", "&& j + 1 < high;", "sgd"),
    "what lies before a tensor updated too": OpFault(
        "cuda/sgd.cu", "place.chunk == 0 ? lead : 0,", "0,", "sgd"
    ),
    "chunks that ignore where a tensor begins": OpFault(
        "cuda/sgd_table.cuh", "(t.n) + lead(t), kChunk)", "(t.n), kChunk)", "sgd"
    ),
    "steps that are not counted": OpFault(
        "cuda/mlp_layers.cuh",
        "end.clock->next = now + 1;",
        "end.clock->next = now;",
        "mlp",
        unit="mlp_layers",
    ),
    "a loss that counts on too early": OpFault(
        "cuda/mlp_layers.cuh",
        "in.clock->now = step;",
        "in.clock->now = step, in.clock->next = step + 1;",
        "mlp",
        unit="mlp_layers",
    ),
    "a gather without its tail": OpFault(
        "cuda/mlp_layers.cuh", "if (i < I) x[", "if (i + 1 < I) x[", "mlp", unit="mlp_layers"
    ),
    "steps launched before an error that nobody counts": OpFault(
        "cuda/mlp.cu",
        "    if (done == 0) throw;\n",
        "    throw;\n",
        "mlp_runs",
        says="refused",
        unit="mlp",
    ),
    "chunks of steps that take too long": OpFault(
        "cuda/mlp_layers.cu",
        "kKernel = 2e6;",
        "kKernel = 1e5;",
        "mlp_runs",
        says="FAIL mlp, steps at a time",
        unit="mlp_layers",
    ),
    "sums of a column that skip rows": OpFault(
        "cuda/reduce.cuh", "row = first + i * kWarps;", "row = first + i;", "linear"
    ),
    "no meeting of the cluster": resident_fault(
        "mlp_exchange.cuh",
        "    ptx::cluster_sync();\n    turn();",
        "    __syncthreads();\n    turn();",
        says="ClusterExchange",  # the kernel that the emulation stops
    ),
    "no meeting of the grid": resident_fault(
        "mlp_exchange.cuh",
        "    cooperative_groups::this_grid().sync();",
        "    __syncthreads();",
        seed=2,
    ),
    "one set of areas instead of two": resident_fault(
        "mlp_exchange.cuh",
        "    read_ = phase_;\n    phase_ ^= 1;\n",
        "    read_ = phase_;\n",
    ),
    "gradients in another block's slice": resident_fault(
        "mlp_resident.cuh", "first + at % own, shared_", "at % own, shared_"
    ),
    "a slice without its tail": resident_fault(
        "mlp_resident_args.cuh",
        "begin + each < n ? begin + each : n)",
        "begin + each < n ? begin + each : n - 1)",
    ),
    "dx from weights that are updated already": resident_fault(
        "mlp_sweep.cuh",
        "p[i * kB + b] = w[i] * d[b];",
        "p[i * kB + b] = (w[i] - update.rule.lr * d[0] * now[i * kB]) * d[b];",
    ),
    "no wait for the next samples": resident_fault(
        "mlp_resident.cuh", "    ptx::cp_async_wait<0>();\n", ""
    ),
    "no barrier between a pass and the sums of its terms": resident_fault(
        "mlp_resident.cuh",
        "update, x, next, dz, sums(), sums());\n    }\n    __syncthreads();\n",
        "update, x, next, dz, sums(), sums());\n    }\n",
    ),
    "vectors at addresses that are not aligned": OpFault(
        "cuda/sgd_table.cuh",
        "% kVectorBytes) == 0;",
        "% sizeof(T)) == 0;",
        "sgd",
        says="misaligned address",
    ),
}

# What only AddressSanitizer sees: the row's products are not stored.
READ_BEYOND = OpFault(
    "cuda/gemm_plain.cuh",
    "line_ + i * next_line_ < lines_ &&",
    "line_ + i * next_line_ <= lines_ &&",
    "linear",
    says="AddressSanitizer: heap-buffer-overflow",
)


# In 16 bits where it is about copies: float32's kernels make anew what is not finite, poison too.
def _gemm(file: str, old: str, new: str, says: str = "FAIL gemm ", dtype: str = "f32") -> OpFault:
    return OpFault(f"cuda/gemm_{file}.cuh", old, new, "gemm", says, dtype=dtype)


OP_FAULTS |= {
    "tiles multiplied before their copies are waited for": _gemm(
        "mma", "    ptx::cp_async_wait<Tile::kStages - 2>();\n", "", dtype="bf16"
    ),
    "no barrier between a step's tiles and those of the next": _gemm(
        "mma", "those of the last.\n      __syncthreads();\n", "those of the last.\n", dtype="bf16"
    ),
    "a group of copies that is not counted": _gemm(
        "mma",
        "    ptx::cp_async_commit();  // of",
        "    if (step < steps) ptx::cp_async_commit();  // of",
        dtype="bf16",
    ),
    "no barrier before the sums take the tiles' place": _gemm(
        "mma",
        "  __syncthreads();\n  constexpr int kPitch",
        "  constexpr int kPitch",
        dtype="bf16",
    ),
    "a wrong fragment of the second column": _gemm(
        "arithmetic",
        "const uint32_t columns[2] = {b.r[i], b.r[i + 2]};\n      if",
        "const uint32_t columns[2] = {b.r[2 * i], b.r[2 * i + 1]};\n      if",
        dtype="bf16",
    ),
    "a wrong element of float64's fragment": _gemm(
        "arithmetic", "part, a.r[half], b.r[i], part", "part, a.r[i], b.r[half], part", dtype="f64"
    ),
    "a split without its low half": _gemm(
        "arithmetic", "      ptx::mma_m16n8k8_tf32(part, a.low, high, part);\n", ""
    ),
    "overflow that is left as it is": _gemm(
        "mma", "if (!(std::abs(value) < kNearOverflow))", "if (value == 12345.0f)"
    ),
    "rows of 8 read without their spread": _gemm(
        "operand",
        "return offset(lane / 16 * 8 + lane % 8, warp_line / kPerPiece + lane / 8 % 2);",
        "return (lane / 16 * 8 + lane % 8) * kRowBytes +\n"
        "             (warp_line / kPerPiece + lane / 8 % 2) * kPiece;",
        dtype="bf16",
    ),
    "pieces that forget the last elements of k": _gemm(
        "operand",
        "left < kPerPiece ? left : kPerPiece",
        "left < kPerPiece ? 0 : kPerPiece",
        dtype="bf16",
    ),
    "one row of the tile's edge too few": _gemm(
        "operand",
        "first_row + i * kRowsAtOnce < rows",
        "first_row + i * kRowsAtOnce < rows - 1",
        dtype="bf16",
    ),
    "pieces of an operand that is not aligned": _gemm(
        "operand",
        "far * static_cast<int64_t>(sizeof(T)) % kPiece == 0 &&",
        "",
        "cp.async from: an address that is not a multiple of 16",
    ),
    "few lines: no barrier before the warps' sums are added": _gemm(
        "skinny",
        "of_warp[warp][f][lane] = sum[f];\n  __syncthreads();\n",
        "of_warp[warp][f][lane] = sum[f];\n",
    ),
    "few lines: the next ones stored while the last are read": _gemm(
        "skinny", "    __syncthreads();  // all have done with the last step's\n", ""
    ),
    "few lines: no barrier of the cluster": _gemm(
        "skinny", "    ptx::cluster_sync();\n#pragma unroll 1\n", "#pragma unroll 1\n", says="gemm"
    ),
    "a slice whose sum is left out": _gemm(
        "plain", "int s = 1; s < kSlices", "int s = 2; s < kSlices"
    ),
    "shared tiles: no barrier of the cluster before the sums are added": _gemm(
        "plain", "    ptx::cluster_sync();\n  }\n", "    __syncthreads();\n  }\n", says="gemm"
    ),
    "shared tiles: a block leaves while others read its sums": _gemm(
        "plain",
        "  if (parts > 1) ptx::cluster_sync();  // none",
        "  // none",
    ),
    "shared tiles: k from one block on taken twice": _gemm(
        "plain", "(part.rank * kSlices + slice)", "(part.rank / 2 * kSlices + slice)"
    ),
    "shared tiles: the epilogue run by every block": _gemm(
        "plain",
        "e = part.rank * kThreads + threadIdx.x; e < kRows * kCols; e += parts * kThreads",
        "e = threadIdx.x; e < kRows * kCols; e += kThreads",
    ),
    "shared tiles: steps that no block takes": _gemm(
        "cluster", "ceil_div(all - rank, parts)", "all / parts"
    ),
    "shared tiles: a block whose sums are left out": _gemm(
        "cluster", "r < parts ? *ptx", "r < parts - 1 ? *ptx"
    ),
    "shared tiles of mma: no barrier of the cluster before the sums are added": _gemm(
        "mma",
        "  else\n    ptx::cluster_sync();\n",
        "  else\n    __syncthreads();\n",
        says="gemm",
        dtype="bf16",
    ),
    "shared tiles of mma: k of one block taken by two": _gemm(
        "mma",
        "(part.rank + step * part.parts)",
        "(part.rank / 2 + step * part.parts)",
        dtype="bf16",
    ),
    "shared tiles of mma: the epilogue run by every block": _gemm(
        "mma",
        "int row = rank * kRowsAtOnce + threadIdx.x / Tile::kCols;",
        "int row = threadIdx.x / Tile::kCols;",
        dtype="bf16",
    ),
    "sm_75: a wrong fragment of the second half": _gemm(
        "arithmetic", "b.r[2 * half + i]", "b.r[2 * i + half]", dtype="f16"
    ),
    "sm_75: no barrier between storing tiles and multiplying them": _gemm(
        "mma", "step + 1 stores to.\n      __syncthreads();\n", "step + 1 stores to.\n", dtype="f16"
    ),
    "sm_75: pieces stored without their spread": _gemm(
        "operand",
        "unsigned char* to = tile + offset(row, piece);",
        "unsigned char* to = tile + row * kRowBytes + piece * kPiece;",
        dtype="f16",
    ),
    "sm_75: pieces that forget the last elements": _gemm(
        "operand", "j < inside ? from[j * near] : T{}", "T{}", dtype="f16"
    ),
    "wgmma: multiplied before it is there": _gemm(
        "wgmma",
        "    ptx::mbarrier_wait(Tile::full(step), Tile::parity(step));\n",
        "",
        says="gemm",
        dtype="bf16",
    ),
    "wgmma: boxes over those that are still multiplied": _gemm(
        "wgmma_tma",
        "      if (step >= Tile::kStages) ptx::mbarrier_wait(",
        "      if (step < 0) ptx::mbarrier_wait(",
        says="gemm",
        dtype="bf16",
    ),
    "wgmma: a tile given back while it is multiplied": _gemm(
        "wgmma", "ptx::wgmma_wait<1>();", "ptx::wgmma_wait<2>();", dtype="bf16"
    ),
    "wgmma: no wait for the last product": _gemm(
        "wgmma", "  ptx::wgmma_wait<0>();\n", "", says="gemm", dtype="bf16"
    ),
    "wgmma: sums that take the place of tiles still needed": _gemm(
        "wgmma", "  ptx::barrier_sync(kMultiplied, Tile::kMultiplying);", "", dtype="bf16"
    ),
    "wgmma: the wrong step along k": _gemm(
        "wgmma", "part * 2 * kGroupBytes", "part * kGroupBytes", dtype="f16"
    ),
    "wgmma: a box's lines and depth exchanged": _gemm(
        "wgmma_tma",
        "static_cast<int>(line), static_cast<int>(k), full",
        "static_cast<int>(k), static_cast<int>(line), full",
        dtype="bf16",
    ),
    "wgmma: blocks that do not wait for each other's sums": _gemm(
        "wgmma", "ptx::cluster_sync();\n    add_up_rows", "__syncthreads();\n    add_up_rows"
    ),
    "wgmma: a block leaves while others read its sums": _gemm(
        "wgmma", "  if (share.blocks > 1) ptx::cluster_sync();  // none", "  // none"
    ),
    "wgmma: rows finished with what was read for another": _gemm(
        "rows", "finish(m, n, value, read[i])", "finish(m, n, value, read[i / 2 * 2])", dtype="bf16"
    ),
    "wgmma, tf32: pieces over those that are still multiplied": _gemm(
        "wgmma_tf32",
        "    if (step >= Tile::kStages) ptx::mbarrier_wait(",
        "    if (step < 0) ptx::mbarrier_wait(",
        says="gemm",
    ),
    "wgmma, tf32: a warp that tells of pieces that not all of it have stored": _gemm(
        "wgmma_tf32", "    __syncwarp();        // and the others of its warp\n", ""
    ),
    "wgmma, tf32: the wrong step along k": _gemm("wgmma", "part * 32", "part * 16"),
    "wgmma, tf32: pieces that are not transposed": _gemm(
        "wgmma_tf32",
        "kAlongK ? value_[block][i].value[j] : value_[block][j].value[i]",
        "value_[block][i].value[j]",
    ),
    "wgmma, tf32: pieces stored in each other's banks": _gemm(
        "wgmma_tf32",
        "thread % kWarp / 4 * 4 + i",
        "thread % kWarp / 4 + i * 8",
        says="FAIL banks",
    ),
    "wgmma, tf32: cut off instead of rounded": _gemm(
        "wgmma_tf32", "ptx::to_tf32(", "__float_as_uint("
    ),
    "wgmma, tf32: overflow that is left as it is": _gemm(
        "wgmma_tf32",
        "return std::abs(sum) < kNearOverflow ? sum :",
        "return sum != 1234.5f ? sum :",
    ),
}

PRIMITIVE_FAULTS = {
    "no barrier between writing and reading shared memory": PrimitiveFault(
        "block.cu",
        "  held[threadIdx.x] = in[first + threadIdx.x];\n  __syncthreads();\n",
        "  held[threadIdx.x] = in[first + threadIdx.x];\n",
        "FAIL reverse",
    ),
    "a barrier that one thread does not reach": PrimitiveFault(
        "block.cu",
        "    __syncthreads();\n    if (static_cast<int>(threadIdx.x) < distance)",
        "    if (threadIdx.x != 3) __syncthreads();\n"
        "    if (static_cast<int>(threadIdx.x) < distance)",
        "kernel primitives::tree_kernel: deadlock: of 128 threads 1 have left the kernel",
    ),
    "less dynamic shared memory than is used": PrimitiveFault(
        "block.cu",
        ".dynamic_shared = ((kCount - 1) * stride + 1) * sizeof(float)",
        ".dynamic_shared = ((kCount - 1) * stride) * sizeof(float)",
        "has written outside its dynamic shared memory",
    ),
    "more dynamic shared memory than there is": PrimitiveFault(
        "block.cu",
        ".dynamic_shared = ((kCount - 1) * stride + 1) * sizeof(float)",
        ".dynamic_shared = (kCount * stride * 10) * sizeof(float)",
        "gdext: CUDA kernel tree",
    ),
    "a warp that does not wait for the one before": PrimitiveFault(
        "block.cu",
        "  if (warp > 0) ptx::barrier_sync(warp, 2 * kWarp);\n",
        "",
        "FAIL relay",
    ),
    "a vector load at an odd element": PrimitiveFault(
        "block.cu",
        "    float4 v = *reinterpret_cast<const float4*>(in + i);\n",
        "    float4 v = *reinterpret_cast<const float4*>(in + i - (i > 0));\n",
        "misaligned address",
    ),
    "no tail after the vectors": PrimitiveFault(
        "block.cu", "    for (int j = i; j < n; ++j) out[j] = 2 * in[j];\n", "", "FAIL vectors"
    ),
    "a lane that votes with another's mask": PrimitiveFault(
        "warp.cu",
        "t % 2 ? 0xaaaaaaaau : 0x55555555u",
        "t % 2 || t == 4 ? 0xaaaaaaaau : 0x55555555u",
        "__ballot_sync: lane 4 is not in its own mask",
    ),
    "no first barrier of the cluster": PrimitiveFault(
        "cluster.cu", "  ptx::cluster_sync();\n", "", "FAIL ring"
    ),
    "a cluster's blocks that do not wait for each other": PrimitiveFault(
        "cluster.cu", "  ptx::cluster_wait();\n", "", "ring"
    ),
    "no barrier of the grid": PrimitiveFault(
        "cluster.cu", "    cooperative_groups::this_grid().sync();\n", "", "FAIL phases"
    ),
    "no wait for a copy": PrimitiveFault(
        "copies.cu", "    ptx::cp_async_wait<1>();\n", "", "FAIL async"
    ),
    "a wait for one copy too few": PrimitiveFault(
        "copies.cu", "ptx::cp_async_wait<1>()", "ptx::cp_async_wait<2>()", "FAIL async"
    ),
    "no barrier after the wait for a copy": PrimitiveFault(
        "copies.cu",
        "    ptx::cp_async_wait<1>();\n    __syncthreads();\n",
        "    ptx::cp_async_wait<1>();\n",
        "FAIL async",
    ),
    "a copy that forgets the last elements": PrimitiveFault(
        "copies.cu", "n - first < 4 ? n - first : 4", "n - first < 4 ? 0 : 4", "FAIL async"
    ),
    "no wait for a bulk copy": PrimitiveFault(
        "copies.cu", "    ptx::mbarrier_wait(&full[stage], parity);\n", "", "bulk"
    ),
    "a bulk copy over what is still read": PrimitiveFault(
        "copies.cu", "      ptx::mbarrier_wait(&empty[stage], parity);\n", "", "FAIL bulk"
    ),
    "a box that is not awaited": PrimitiveFault(
        "copies.cu", "  ptx::mbarrier_wait(&full, 0);\n", "", "box"
    ),
    "a box read without its swizzle": PrimitiveFault(
        "copies.cu",
        "ptx::swizzled(2 * i, ptx::Swizzle::bytes128)",
        "ptx::swizzled(2 * i, ptx::Swizzle::none)",
        "FAIL box",
    ),
    "a wrong index of a fragment": PrimitiveFault(
        "mma.cu",
        "a[(g + 8 * (i % 2)) * kK + t + 4 * (i / 2)]",
        "a[(g + 8 * (i / 2)) * kK + t + 4 * (i % 2)]",
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
        "  multiply(true);\n  ptx::wgmma_wait<0>();\n",
        "  multiply(true);\n",
        "wgmma",
    ),
    "no barrier between writing tiles and wgmma": PrimitiveFault(
        "wgmma.cu", "  ptx::fence_async();\n  __syncthreads();\n", "", "FAIL wgmma"
    ),
    "tiles of wgmma that are not swizzled": PrimitiveFault(
        "wgmma.cu",
        "along % per_line() * sizeof(T),\n                         swizzle);",
        "along % per_line() * sizeof(T),\n                         Swizzle::none);",
        "FAIL wgmma",
    ),
}
