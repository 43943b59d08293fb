"""Peak memory of training steps: parameters, activations, gradients, whatever is live at once."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gdext.benchmark.contestants import HERE, Unavailable
from gdext.benchmark.networks import NETWORKS, Network, make_case
from gdext.benchmark.process import in_new_process

WHO = ("fused", "layers", "eager")
CELLS = [
    ("784-512-512-10", 32),
    ("784-512-512-10", 512),
    ("784-512-512-10", 4096),
    ("784-1024-1024-1024-1024-10", 512),
]
STEPS = 3


def run(contestants: list[str], threads: int) -> Iterator[dict[str, Any]]:
    """network, batch, and bytes by contestant, each measured in a process of its own."""
    for network, batch in CELLS:
        row: dict[str, Any] = {"network": network, "batch": batch, "bytes": {}, "notes": {}}
        for name in WHO:
            if name in contestants:
                try:
                    row["bytes"][name] = in_new_process(
                        peak,
                        name,
                        network,
                        batch,
                        threads,
                        # What is freed goes back to the system at once: the peak is then of what is
                        # in use, and not of what the C library keeps.
                        MALLOC_MMAP_THRESHOLD_="65536",
                        MALLOC_TRIM_THRESHOLD_="65536",
                    )
                except Unavailable as error:
                    row["notes"][name] = str(error)
        yield row


def peak(name: str, network: str, batch: int, threads: int) -> int:
    """Bytes by which memory grows, at most, from before the model is made to after a few steps.

    Raises:
        Unavailable: of the contestant; or this system does not tell a process's peak memory.
    """
    torch.set_num_threads(threads)
    chosen = NETWORKS[network]
    small = Network((8, 8, 8), chosen.activation, chosen.loss)
    HERE[name](make_case(small, 8, 1e4)).work()  # loads code and starts threads
    case = make_case(chosen, batch, STEPS * chosen.flops(batch))
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        HERE[name](case).work()
        return _status("VmHWM") - before
    except OSError as error:
        raise Unavailable(f"no peak memory here: {error}") from error


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise Unavailable(f"no peak memory here: /proc/self/status has no {field}")
    return 1024 * int(found[1])
