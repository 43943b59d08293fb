"""Time to 98% test accuracy on MNIST: the trainer itself, once for each seed."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gdext.benchmark.process import in_new_process
from gdext.benchmark.rounds import Unavailable
from gdext.training import cli

TARGET = 0.98
MISSED = 1  # the trainer's exit code
# The trainer's engines.
WHO = {
    "cpu": {"fused": "fused", "eager": "torch"},
    "cuda": {"fused": "fused", "layers": "layers", "eager": "torch"},
}


def run(
    contestants: list[str], seeds: int, threads: int, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """contestant, seed, seconds of training, the accuracy at its end, and whether that reached
    the target; contestants take turns.

    Raises:
        Unavailable: the trainer refuses; its reason is the message.
    """
    for seed in range(seeds):
        for name, engine in WHO[device].items():
            if name in contestants:
                rows = in_new_process(train, engine, seed, threads, device)
                accuracy = rows[-1]["test_accuracy"]
                yield {
                    "contestant": name,
                    "seed": seed,
                    "seconds": sum(row["seconds"] for row in rows),
                    "accuracy": accuracy,
                    "reached": accuracy >= TARGET,
                }


def train(engine: str, seed: int, threads: int, device: str = "cpu") -> list[dict[str, float]]:
    """One run of scripts/train_mnist.py; its metrics, epoch by epoch, of which the last tells
    whether it reached the target."""
    torch.set_num_threads(threads)
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--recipe", "fast", "--engine", engine, "--seed", str(seed)]
        arguments += ["--target-accuracy", str(TARGET), "--device", device, "--out", folder]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cli.main(arguments)
        metrics = Path(folder) / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if code not in (0, MISSED) or not lines:
            raise Unavailable(said.getvalue().strip().splitlines()[-1])
    return [json.loads(line) for line in lines]
