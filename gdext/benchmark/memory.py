"""Peak memory of training steps: parameters, activations, gradients, whatever is live at once."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gdext.benchmark.contestants import HERE
from gdext.benchmark.networks import NETWORKS, Network, make_case
from gdext.benchmark.process import in_new_process
from gdext.benchmark.rounds import Unavailable

WHO = ("fused", "layers", "eager")
CELLS = [
    ("784-512-512-10", 32),
    ("784-512-512-10", 512),
    ("784-1024-1024-1024-1024-10", 512),
]
RUNS = 3  # where a block of memory finds room is a matter of luck
STEPS = 3
# The C library gives nothing back to the system: what has been used at once, at any time, is still
# there at the end.
ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def run(contestants: list[str], threads: int, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """network, batch, and bytes by contestant, each RUNS times, in a process of its own."""
    for network, batch in CELLS:
        row: dict[str, Any] = {"network": network, "batch": batch, "bytes": {}, "notes": {}}
        for name in WHO:
            if name in contestants:
                arguments = (name, network, batch, threads, device)
                try:
                    row["bytes"][name] = [
                        in_new_process(peak, *arguments, **ENVIRONMENT) for _ in range(RUNS)
                    ]
                except Unavailable as error:
                    row["notes"][name] = str(error)
        yield row


def peak(name: str, network: str, batch: int, threads: int, device: str = "cpu") -> int:
    """Bytes by which memory grows, at most, from before the model is made to after a few steps.

    Raises:
        Unavailable: of the contestant; or this system does not tell a process's peak memory.
    """
    torch.set_num_threads(threads)
    chosen = NETWORKS[network]
    small = Network((8, 8, 8), chosen.activation, chosen.loss)
    HERE[name](make_case(small, 8, STEPS, device)).work(STEPS)  # loads code, starts threads
    case = make_case(chosen, batch, STEPS, device)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        HERE[name](case).work(STEPS)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # but for what was freed before the model was made
    before = _touched()
    HERE[name](case).work(STEPS)
    return _touched() - before


def _touched() -> int:
    """Bytes of this process's own memory that have been written to."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError as error:
        raise Unavailable(f"no peak memory here: {error}") from error
    return 1024 * int(text.split("Anonymous:")[1].split()[0])
