"""Faults in the ops, the update and the whole-network steps."""

from __future__ import annotations

from .kinds import OpFault


def resident_fault(
    file: str, old: str, new: str, says: str = "FAIL mlp ", seed: int = 1
) -> OpFault:
    return OpFault(f"cuda/{file}", old, new, "mlp_resident", says, seed)


def pinned_fault(old: str, new: str, case: str) -> OpFault:
    """`case`: the one that fails; empty where it throws."""
    says = f"FAIL pinned, {case}" if case else "gdext: CUDA, "
    return OpFault("cuda/pinned.cu", old, new, "pinned", says)


OP_FAULTS = {
    "no barrier between storing tiles and multiplying them": OpFault(
        "cuda/gemm_plain.cuh",
        "    b_loader.store(b_tile);\n    <|__syncthreads();|>\n",
        "",
        "linear",
    ),
    "no barrier before the result takes the tiles' place": OpFault(
        "cuda/gemm_plain.cuh",
        "  }\n\n  <|__syncthreads();|>\n#pragma unroll\n",
        "",
        "linear",
    ),
    "a tile that ends one product too early": OpFault(
        "cuda/gemm_plain.cuh",
        "k_ + i * next_k_ < <|depth_|>;",
        "depth_ - 1",
        "linear",
    ),
    "a result that ends one column too early": OpFault(
        "cuda/gemm_plain.cuh", "if (m < M && n < <|N|>)", "N - 1", "linear"
    ),
    "no barrier before the next reduction of a block": OpFault(
        "cuda/common.cuh",
        "<|__syncthreads();|>  // the next call writes of_warp again\n",
        "",
        "mse",
    ),
    "threads that leave before a barrier": OpFault(
        "cuda/reduce.cuh",
        "<||>  const double weights = weighted",
        "if (threadIdx.x != 0) return;",
        "mse",
        says="has left the kernel",
    ),
    "the sign of cross_entropy's dx": OpFault(
        "cuda/cross_entropy.cu",
        "(<|a * std::exp(log_p) - sample.q(c)|>)",
        "sample.q(c) - a * std::exp(log_p)",
        "cross_entropy",
    ),
    "the sign of the update": OpFault("common/sgd_rule.h", "p -= lr * d;", "p += lr * d;", "sgd"),
    "a long list's first blocks laid over its entries": OpFault(
        "cuda/sgd_table.cuh",
        "entries + <|capacity|>)),",
        "count",
        "sgd",
        says="",  # it crashes
    ),
    "a graph that does not hold its copy's source": pinned_fault(
        "  <|if (capturing) keep_for_life_of(graph, from);|>\n",
        "",
        "in a graph",
    ),
    "memory written over that is not copied yet": pinned_fault(
        "(count < enough && <|(*oldest)->is_waiting()|>)",
        "false",
        "copies that wait",
    ),
    "memory that nobody gives back": pinned_fault(
        "block->taken.store(<|false|>, std::memory_order_release)",
        "true",
        "one after the other",
    ),
    "memory given to two at once": pinned_fault(
        "block->taken.store(<|true|>, std::memory_order_relaxed)",
        "false",
        "two at once",
    ),
    "a capture that memory is asked for in": pinned_fault(
        "mode_ = <|cudaStreamCaptureModeRelaxed|>;",
        "cudaStreamCaptureModeGlobal",
        "",
    ),
    "no memory although some is about to be free": pinned_fault(
        "if (<|!block|>) throw;",
        "true",
        "",
    ),
    "memory taken again without a wait": pinned_fault(
        '  <|check_cuda("copy from pinned memory", cudaEventSynchronize(block->copied));|>\n',
        "",
        "copies that wait",
    ),
    "an event that does not mark the copy": pinned_fault(
        "cudaEventRecord(from->copied, <|stream|>)",
        "nullptr",
        "the event of a copy",
    ),
    "memory taken before that the list does not use": OpFault(
        "cuda/sgd.cu",
        "= <|args.staging ? args.staging : sgd_staging(args.count)|>;",
        "sgd_staging(args.count)",
        "sgd_lists",
        says="FAIL sgd_lists, memory taken before",
    ),
    "a chunk counted from the wrong tensor": OpFault(
        "cuda/sgd_table.cuh",
        "    <|chunk -= chunks;|>\n",
        "",
        "sgd",
        says="",  # it crashes
    ),
    "an lr of float32 read as one of float64": OpFault(
        "contract/sgd.h",
        "return <|dtype == DType::f32|> ? *static_cast<const float*>",
        "false",
        "sgd",
        says="misaligned address",
    ),
    "a missing tail": OpFault("cuda/sgd.cu", "&& <|j < high|>;", "j + 1 < high", "sgd"),
    "what lies before a tensor updated too": OpFault(
        "cuda/sgd.cu", "<|place.chunk == 0 ? lead : 0|>,", "0", "sgd"
    ),
    "chunks that ignore where a tensor begins": OpFault(
        "cuda/sgd_table.cuh", "(t.n) + <|lead(t)|>, kChunk)", "0", "sgd"
    ),
    "steps that are not counted": OpFault(
        "cuda/mlp_layers.cuh", "end.clock->next = <|now + 1|>;", "now", "mlp"
    ),
    "a loss that counts on too early": OpFault(
        "cuda/mlp_layers.cuh",
        "in.clock->now = step;",
        "in.clock->now = step, in.clock->next = step + 1;",
        "mlp",
    ),
    "a gather without its tail": OpFault(
        "cuda/mlp_layers.cuh", "if (<|i < I|>) x[", "i + 1 < I", "mlp"
    ),
    "steps launched before an error that nobody counts": OpFault(
        "cuda/mlp.cu", "    <|if (done == 0) throw;|>\n", "throw;", "mlp_runs", says="refused"
    ),
    "chunks of steps that take too long": OpFault(
        "cuda/mlp_layers.cu",
        "double work = <|kKernel|> *",
        "1e5",
        "mlp_runs",
        says="FAIL mlp, steps at a time",
    ),
    "sums of a column that skip rows": OpFault(
        "cuda/reduce.cuh", "row = <|first + i * kWarps|>;", "first + i", "linear"
    ),
    "no meeting of the cluster": resident_fault(
        "mlp_exchange.cuh",
        "    <|ptx::cluster_sync();|>\n    turn();",
        "__syncthreads();",
        says="ClusterExchange",  # the kernel that the emulation stops
    ),
    "no meeting of the grid": resident_fault(
        "mlp_exchange.cuh",
        "cooperative_groups::this_grid().sync();",
        "__syncthreads();",
        seed=2,
    ),
    "one set of areas instead of two": resident_fault(
        "mlp_exchange.cuh",
        "    read_ = phase_;\n    <|phase_ ^= 1;|>\n",
        "",
    ),
    "gradients in another block's slice": resident_fault(
        "mlp_resident.cuh", "<|first + at % own|>, shared_", "at % own"
    ),
    "a slice without its tail": resident_fault(
        "mlp_resident_args.cuh",
        "begin + each < n ? begin + each : <|n|>)",
        "n - 1",
    ),
    "dx from weights that are updated already": resident_fault(
        "mlp_sweep.cuh",
        "p[i * kB + b] = <|w[i]|> * d[b];",
        "w[i] - update.rule.lr * d[0] * now[i * kB]",
    ),
    "a plain update that goes down where it should go up": resident_fault(
        "mlp_resident.cuh",
        "      <|if (rule.maximize) rule.lr = -rule.lr;|>  // -(lr g)",
        "",
    ),
    "no wait for the next samples": resident_fault(
        "mlp_resident.cuh", "    <|ptx::cp_async_wait<0>();|>\n", ""
    ),
    "no barrier between a pass and the sums of its terms": resident_fault(
        "mlp_resident.cuh",
        "update, x, next, dz, sums(), sums());\n    }\n    <|__syncthreads();|>\n",
        "",
    ),
    "vectors at addresses that are not aligned": OpFault(
        "cuda/sgd_table.cuh",
        "% <|kVectorBytes|>) == 0;",
        "sizeof(T)",
        "sgd",
        says="misaligned address",
    ),
}

# What only AddressSanitizer sees: the row's products are not stored.
READ_BEYOND = OpFault(
    "cuda/gemm_plain.cuh",
    "line_ + i * next_line_ < <|lines_|> &&",
    "lines_ + 1",
    "linear",
    says="AddressSanitizer: heap-buffer-overflow",
)
