"""Runs of the MNIST trainer on made-up images, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gdext import data
from gdext.training import cli, engine, report

TIMES = ("seconds", "samples_per_second")
each_engine = pytest.mark.parametrize("name", list(engine.ENGINES))


def made_up(count: int, seed: int) -> data.ImageSet:
    """Ten sparse patterns with a quarter of their dots, which a small network soon tells apart."""
    patterns = torch.rand(10, 28, 28, generator=torch.Generator().manual_seed(7)) < 0.2
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    kept = torch.rand(count, 28, 28, generator=generator) < 0.25
    images = 255 * (patterns[labels] & kept).to(torch.uint8)
    return data.ImageSet(images, labels, tuple("0123456789"), "made-up images")


TRAIN, TEST = made_up(330, 1), made_up(100, 2)


def prepare(tmp_path: Path, monkeypatch) -> None:
    """An empty working directory, made-up images in place of MNIST and, as they take seconds per
    run, neither plots nor TensorBoard events."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "mnist", lambda root=None, train=True: TRAIN if train else TEST)
    monkeypatch.setattr(report, "find_spec", lambda name: None)


def run(*arguments: object, code: int = 0) -> None:
    command = [str(a) for a in arguments]
    for option, default in [("--hidden", ["16"]), ("--batch-size", ["32"]), ("--device", ["cpu"])]:
        if option not in command and "--resume" not in command:
            command += [option, *default]
    assert cli.main(command) == code


def rows(folder: str | Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def untimed(row: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if k not in TIMES}


def state(folder: str | Path) -> dict:
    content = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
    content["position"].pop("seconds")
    content["position"]["history"] = [untimed(r) for r in content["position"]["history"]]
    return content


def same(a: object, b: object) -> bool:
    """Equal to the bit, through dicts, lists and tensors."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def one_line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error
