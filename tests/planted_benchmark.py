"""Made-up results of the benchmark, and networks that take no time."""

from __future__ import annotations

from gdext.benchmark import rounds
from gdext.benchmark.networks import Network
from gdext.benchmark.results import Row

TINY = Network((6, 5, 5, 3), "relu", "cross_entropy", batches=(2, 3))
TINY_MSE = Network((6, 5, 3), "tanh", "mse", batches=(2,))
EFFORT = rounds.Effort(rounds=3, turn=0.0, limit=0.0, flops=2000, samples=4, steps=1)

GPU = {
    "name": "A Graphics Processor",
    "compute_capability": "9.0",
    "driver_version": "580.1",
    "clocks.max.sm": "1980 MHz",
}
LIMITS = {
    "gpu": "A Graphics Processor",
    "fma": [{"dtype": "float32", "rate": 6.05e13}],
    "matrix": [{"kind": "tf32", "rate": 4.2e14}],
    "bandwidth": [{"bytes": 2**20, "rate": 5e12}],
    "copy": {"bytes": 2**31, "rate": 2.9e12},
}


def planted_row(**changes) -> Row:
    values = {
        "section": "steps",
        "group": "8-64-64-4",
        "label": "8-64-64-4, tanh, MSE, dense input, batch 32",
        "flops": 1e6,
        "bytes": 1e5,
        "batch": 32,
        "times": {"fused": [2e-5, 4e-5, 3e-5], "eager": [3e-4, 3.3e-4, 2e-4], "jax-scan": [6e-5]},
        "limits": {"arithmetic": [1.5e-5, 1.4e-5, 1.6e-5], "traffic": [1e-6, 2e-6, 3e-6]},
        "notes": {"compile": "torch.compile: no compiler"},
    }
    return Row(**{**values, **changes})


def planted_results(*rows: Row) -> dict:
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "command": "scripts/benchmark.py",
        "machine": {"cpu": "A Processor", "cores": 2},
        "versions": {"gdext": "1", "torch": "2", "jax": {"jax": "3"}, "python": "4",
                     "compiler": "GCC 5", "instruction_set": "avx2"},
        "threads": 2,
        "effort": {"rounds": 3},
        "limits": {},
        "rows": [vars(row) for row in rows],
        "memory": [
            {"network": "n", "batch": 512, "bytes": {"fused": [5e6, 9e6, 4e6]}, "notes": {}}
        ],
        "accuracy": [{"contestant": "fused", "seed": s, "seconds": 1.0 + s,
                      "accuracy": 0.98 if s < 3 else 0.97, "reached": s < 3} for s in range(4)],
        "notes": ["a note"],
    }  # fmt: skip
