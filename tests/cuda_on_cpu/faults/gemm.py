"""Faults in the products' kernels, which test_gemm.cpp calls by name."""

from __future__ import annotations

from .kinds import OpFault


# In 16 bits where it is about copies: float32's kernels make anew what is not finite, poison too.
def _gemm(file: str, old: str, new: str, says: str = "FAIL gemm ", dtype: str = "f32") -> OpFault:
    return OpFault(f"cuda/gemm_{file}.cuh", old, new, "gemm", says, dtype=dtype)


GEMM_FAULTS = {
    "tiles multiplied before their copies are waited for": _gemm(
        "mma", "ptx::cp_async_wait<Tile::kStages - 2>();", "", dtype="bf16"
    ),
    "no barrier between a step's tiles and those of the next": _gemm(
        "mma", "those of the last.\n      <|__syncthreads();|>\n", "", dtype="bf16"
    ),
    "a group of copies that is not counted": _gemm(
        "mma",
        "    <|ptx::cp_async_commit();|>  // of",
        "if (step < steps) ptx::cp_async_commit();",
        dtype="bf16",
    ),
    "no barrier before the sums take the tiles' place": _gemm(
        "mma",
        "  <|__syncthreads();|>\n  constexpr int kPitch",
        "",
        dtype="bf16",
    ),
    "a wrong fragment of the second column": _gemm(
        "arithmetic",
        "{b.r[i], b.r[<|i + 2|>]};\n      if",
        "2",
        dtype="bf16",
    ),
    "a wrong element of float64's fragment": _gemm(
        "arithmetic", "part, a.r[<|half|>], b.r[i], part", "i", dtype="f64"
    ),
    "a split without its low half": _gemm(
        "arithmetic", "      <|ptx::mma_m16n8k8_tf32(part, a.low, high, part);|>\n", ""
    ),
    "overflow that is left as it is": _gemm(
        "mma", "if (<|!(std::abs(value) < kNearOverflow)|>)", "value == 12345.0f"
    ),
    "rows of 8 read without their spread": _gemm(
        "operand",
        "return <|offset(lane / 16 * 8 + lane % 8, warp_line / kPerPiece + lane / 8 % 2)|>;",
        "(lane / 16 * 8 + lane % 8) * kRowBytes + (warp_line / kPerPiece + lane / 8 % 2) * kPiece",
        dtype="bf16",
    ),
    "pieces that forget the last elements of k": _gemm(
        "operand",
        "left < kPerPiece ? <|left|> : kPerPiece",
        "0",
        dtype="bf16",
    ),
    "one row of the tile's edge too few": _gemm(
        "operand",
        "first_row + i * kRowsAtOnce < <|rows|>",
        "rows - 1",
        dtype="bf16",
    ),
    "pieces of an operand that is not aligned": _gemm(
        "operand",
        "<|far * static_cast<int64_t>(sizeof(T)) % kPiece == 0|> &&",
        "true",
        "cp.async from: an address that is not a multiple of 16",
    ),
    "few lines: no barrier before the warps' sums are added": _gemm(
        "skinny",
        "of_warp[warp][f][lane] = sum[f];\n  <|__syncthreads();|>\n",
        "",
    ),
    "few lines: the next ones stored while the last are read": _gemm(
        "skinny", "<|__syncthreads();|>  // all have done with the last step's\n", ""
    ),
    "few lines: no barrier of the cluster": _gemm(
        "skinny", "    <|ptx::cluster_sync();|>\n#pragma unroll 1\n", "", says="gemm"
    ),
    "a slice whose sum is left out": _gemm("plain", "int s = <|1|>; s < kSlices", "2"),
    "shared tiles: no barrier of the cluster before the sums are added": _gemm(
        "plain", "    <|ptx::cluster_sync();|>\n  }\n", "__syncthreads();", says="gemm"
    ),
    "shared tiles: a block leaves while others read its sums": _gemm(
        "plain",
        "  <|if (parts > 1) ptx::cluster_sync();|>  // none",
        "",
    ),
    "shared tiles: k from one block on taken twice": _gemm(
        "plain", "(<|part.rank|> * kSlices + slice)", "part.rank / 2"
    ),
    "shared tiles: the epilogue run by every block": _gemm(
        "plain",
        "e < kRows * kCols; e += <|parts * kThreads|>)",
        "kThreads",
    ),
    "shared tiles: steps that no block takes": _gemm(
        "cluster", "ceil_div(all - rank, parts)", "all / parts"
    ),
    "shared tiles: a block whose sums are left out": _gemm(
        "cluster", "r < <|parts|> ? *ptx", "parts - 1"
    ),
    "shared tiles of mma: no barrier of the cluster before the sums are added": _gemm(
        "mma",
        "  else\n    <|ptx::cluster_sync();|>\n",
        "__syncthreads();",
        says="gemm",
        dtype="bf16",
    ),
    "shared tiles of mma: k of one block taken by two": _gemm(
        "mma",
        "(<|part.rank|> + step * part.parts)",
        "part.rank / 2",
        dtype="bf16",
    ),
    "shared tiles of mma: the epilogue run by every block": _gemm(
        "mma",
        "row += <|parts * kRowsAtOnce|>)",
        "kRowsAtOnce",
        dtype="bf16",
    ),
    "sm_75: a wrong fragment of the second half": _gemm(
        "arithmetic", "b.r[<|2 * half + i|>]", "2 * i + half", dtype="f16"
    ),
    "sm_75: no barrier between storing tiles and multiplying them": _gemm(
        "mma", "step + 1 stores to.\n      <|__syncthreads();|>\n", "", dtype="f16"
    ),
    "sm_75: pieces stored without their spread": _gemm(
        "operand",
        "unsigned char* to = tile + <|offset(row, piece)|>;",
        "row * kRowBytes + piece * kPiece",
        dtype="f16",
    ),
    "sm_75: pieces that forget the last elements": _gemm(
        "operand", "j < inside ? from[j * near] : T{}", "T{}", dtype="f16"
    ),
    "wgmma: multiplied before it is there": _gemm(
        "wgmma",
        "ptx::mbarrier_wait(Tile::full(step), Tile::parity(step));",
        "",
        says="gemm",
        dtype="bf16",
    ),
    "wgmma: boxes over those that are still multiplied": _gemm(
        "wgmma_tma",
        "      if (<|step >= Tile::kStages|>) ptx::mbarrier_wait(",
        "step < 0",
        says="gemm",
        dtype="bf16",
    ),
    "wgmma: a tile given back while it is multiplied": _gemm(
        "wgmma", "ptx::wgmma_wait<1>();", "ptx::wgmma_wait<2>();", dtype="bf16"
    ),
    "wgmma: no wait for the last product": _gemm(
        "wgmma", "  <|ptx::wgmma_wait<0>();|>\n", "", says="gemm", dtype="bf16"
    ),
    "wgmma: sums that take the place of tiles still needed": _gemm(
        "wgmma", "ptx::barrier_sync(kMultiplied, Tile::kMultiplying);", "", dtype="bf16"
    ),
    "wgmma: the wrong step along k": _gemm(
        "wgmma", "<|part * 2 * kGroupBytes|>", "part * kGroupBytes", dtype="f16"
    ),
    "wgmma: a box at the line where its depth begins": _gemm(
        "wgmma_tma",
        "static_cast<int>(<|line|>), static_cast<int>(k), full",
        "k",
        dtype="bf16",
    ),
    "wgmma: blocks that do not wait for each other's sums": _gemm(
        "wgmma", "<|ptx::cluster_sync();|>\n    add_up_rows", "__syncthreads();"
    ),
    "wgmma: a block leaves while others read its sums": _gemm(
        "wgmma", "  <|if (share.blocks > 1) ptx::cluster_sync();|>  // none", ""
    ),
    "wgmma: rows finished with what was read for another": _gemm(
        "rows", "finish(m, n, value, read[<|i|>])", "i / 2 * 2", dtype="bf16"
    ),
    "wgmma, tf32: pieces over those that are still multiplied": _gemm(
        "wgmma_tf32",
        "    if (<|step >= Tile::kStages|>) ptx::mbarrier_wait(",
        "step < 0",
        says="gemm",
    ),
    "wgmma, tf32: a warp that tells of pieces that not all of it have stored": _gemm(
        "wgmma_tf32", "<|__syncwarp();|>        // and the others of its warp\n", ""
    ),
    "wgmma, tf32: the wrong step along k": _gemm("wgmma", "part * 32", "part * 16"),
    "wgmma, tf32: pieces that are not transposed": _gemm(
        "wgmma_tf32",
        "<|kAlongK|> ? value_[block][i].value[j] :",
        "true",
    ),
    "wgmma, tf32: pieces stored in each other's banks": _gemm(
        "wgmma_tf32",
        "thread % kWarp / 4 * 4 + i",
        "thread % kWarp / 4 + i * 8",
        says="FAIL banks",
    ),
    "wgmma, tf32: cut off instead of rounded": _gemm(
        "wgmma_tf32", "<|ptx::to_tf32|>(", "__float_as_uint"
    ),
    "wgmma, tf32: overflow that is left as it is": _gemm(
        "wgmma_tf32",
        "return <|std::abs(sum) < kNearOverflow|> ? sum :",
        "sum != 1234.5f",
    ),
}
