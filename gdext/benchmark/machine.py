"""Which machine and which versions a result is of."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

import gdext
from gdext.benchmark import gpu

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def machine(device: str = "cpu") -> dict[str, Any]:
    """The processor, its cores that this process may use, its caches, and what it can do; the GPU
    where that is what is measured."""
    info = _read(Path("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info, re.MULTILINE)
    return {
        "cpu": _model(info),
        "cores": cores(),
        "caches": _caches(),
        "memory_bytes": 1024 * int(memory[1]) if memory else None,
        "flags": flags[1].split() if flags else [],
        **({"gpu": gpu.facts()} if device == "cuda" else {}),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions(jax: dict[str, str] | None) -> dict[str, Any]:
    build = gdext.build_info()
    return {
        "gdext": build["version"],
        "instruction_set": build["cpu"]["in_use"],
        "compiler": build["compiler"],
        "torch": torch.__version__,
        "jax": jax,
        "python": platform.python_version(),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))


def use_cores(count: int) -> None:
    """Keeps this process, and those it starts, to the first `count` of its cores: PyTorch's
    threads, gdext's and XLA's all share them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    torch.set_num_threads(count)


def _model(info: str) -> str:
    name = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    parts = [name[1] if name else platform.machine()]
    # Virtual machines often hide the name; these numbers still say which processor it is.
    for key in ("cpu family", "model", "stepping"):
        number = re.search(rf"^{key}\s*:\s*(\d+)$", info, re.MULTILINE)
        if number:
            parts.append(f"{key.removeprefix('cpu ')} {number[1]}")
    return ", ".join(parts)


def _caches() -> dict[str, str]:
    """Size of each cache of the first core, such as {"L1 Data": "48K", "L2 Unified": "2048K"}."""
    return {
        f"L{_read(folder / 'level').strip()} {_read(folder / 'type').strip()}": size
        for folder in sorted(CACHES.glob("index*"))
        if (size := _read(folder / "size").strip())
    }


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # not every system has it
