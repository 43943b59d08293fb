"""What the benchmark says of its targets on a GPU, tried without one."""

from __future__ import annotations

import json

import pytest
import torch
from planted_benchmark import EFFORT, GPU, LIMITS, planted_results, planted_row

from gdext.benchmark import (
    cli,
    contestants,
    gpu,
    networks,
    optimizer,
    steps,
    tables,
    targets,
)
from gdext.benchmark.networks import LOW_PRECISION, find
from gdext.benchmark.rounds import Unavailable


def target_rows():
    wide = {"batch": 4096, "times": {"fused": [2e-3], "compile": [1.7e-3]}}
    tf32, bf16 = (
        planted_row(group=name, precision=find(name).precision, **wide) for name in LOW_PRECISION
    )
    bf16.times = {"fused": [2e-3], "compile": [1.9e-3]}
    middle = planted_row(
        group="784-512-512-10", batch=128, times={"fused": [1e-4], "graph": [2e-4]}
    )
    epoch = planted_row(
        section="epoch", group="784-512-512-10:mnist", batch=1, times={"fused": [4e-6]}
    )
    sgd = planted_row(
        section="optimizer", group="momentum 0", label="1 x 100,000,000, momentum 0", batch=None,
        bytes=1.2e9, times={"gdext": [1e-3]},
        limits={"arithmetic": [1e-5], "traffic": [2e-3]},  # by a kernel of gdext's: no measure
    )  # fmt: skip
    other = planted_row(section="optimizer", group="momentum 0", label="1 x 10, momentum 0")
    return [planted_row(), other, tf32, bf16, middle, epoch, sgd]


def test_targets_against_results():
    copy = {"bytes": 2**31, "rate": 1.2e9 / 0.95e-3}
    results = {
        **planted_results(*target_rows()), "device": "cuda", "limits": {**LIMITS, "copy": copy}
    }  # fmt: skip
    wide = networks.WIDE
    single = "a step of 784-512-512-10:mnist, batch 1, to"
    nothing = "not measured (nothing of it in the section targets)"
    assert targets.text(results) == [
        "an epoch of 60,000 single samples in one call: 0.24 s, wanted 0.5: met "
        "(limit: arithmetic)",
        f"{single} torch eager's: {nothing}",
        f"{single} a CUDA graph's: {nothing}",
        "a step of 784-512-512-10, batch 128, to torch eager's: not measured (eager took no part)",
        "a step of 784-512-512-10, batch 128, to a CUDA graph's: 2 x the speed, wanted 1.5: met "
        "(limit: arithmetic)",
        f"a step of {wide}:tf32, batch 4096, to torch.compile's: 0.85 x the speed, wanted 0.9: "
        "MISSED (limit: arithmetic)",
        f"a step of {wide}:bf16, batch 4096, to torch.compile's: 0.95 x the speed, wanted 0.9: met "
        "(limit: arithmetic)",
        "SGD of 10^8 floats, momentum 0, to torch's copy: 0.95 x the bandwidth, wanted 0.9: "
        "met (limit: traffic)",
        f"SGD of 10^8 floats, momentum 0.9, to torch's copy: {nothing}",
        "98% on MNIST, from data on the device: 2.5 s of training, wanted 0.15: MISSED "
        "(reached in 3 of 4 seeds)",
    ]
    results["machine"]["gpu"] = GPU
    report = tables.report(results)
    assert "## Targets" in report and "float32 (where a row says no other), plain SGD" in report
    assert f"| {wide}, bf16, batch 4096 |" in report


def test_rows_of_the_targets(monkeypatch):
    """Each target finds its row among those that are measured for it."""
    monkeypatch.setattr(
        steps, "measure", lambda case, names, jax, effort: planted_row(
            group=case.network.name, batch=case.batch, times={n: [1.0] for n in names}
        ),
    )  # fmt: skip
    made = []

    def case_of(network, batch, count, device):
        made.append((network.name, batch, count, device))
        return networks.Case(network, batch, count, torch.zeros(1, 1), torch.zeros(1), [])

    monkeypatch.setattr(targets, "make_case", case_of)
    monkeypatch.setattr(steps, "make_case", case_of)
    monkeypatch.setattr(
        optimizer, "_compare", lambda tensors, elements, momentum, effort, device: planted_row(
            section="optimizer", group=f"momentum {momentum:g}", batch=None,
            label=f"{tensors:,} x {elements:,}, momentum {momentum:g}", times={"gdext": [1.0]}
        ),
    )  # fmt: skip
    everyone = contestants.of_device("cuda")
    rows = list(targets.rows(everyone, Unavailable(""), EFFORT, "cuda"))
    assert ("784-512-512-10:mnist", 1, 60_000, "cuda") in made
    results = {"rows": [vars(row) for row in rows], "accuracy": [], "notes": [], "limits": LIMITS}
    *lines, accuracy = targets.text(results)
    assert len(lines) == len(targets.TARGETS)
    assert not any("not measured" in line for line in lines)
    assert "not measured" in accuracy
    epoch = next(row for row in rows if row.section == "epoch")
    assert set(epoch.times) == {"fused"}


def test_targets_without_results():
    """Each has its line, with the reason that a note gives."""
    results = {"rows": [], "accuracy": [], "limits": {}, "notes": [
        "accuracy: train_mnist.py: error: MNIST: no files", "targets: ended early: illegal access"
    ]}  # fmt: skip
    verdicts = targets.verdicts(results)
    assert [v.what for v in verdicts[:-1]] == [target.what for target in targets.TARGETS]
    assert {(v.verdict, v.measured) for v in verdicts} == {("not measured", None)}
    assert {v.why for v in verdicts[:-1]} == {"targets: ended early: illegal access"}
    assert str(verdicts[-1]) == (
        "98% on MNIST, from data on the device: not measured "
        "(accuracy: train_mnist.py: error: MNIST: no files)"
    )


def verdict_of(start, results):
    [found] = [v for v in targets.verdicts(results) if v.what.startswith(start)]
    return found


def test_targets_that_lack_something():
    results = planted_results(*target_rows())
    sgd = "SGD of 10^8 floats, momentum 0,"
    assert verdict_of(sgd, results)[1:3] == ("not measured", None)  # no section limits
    graph = "a step of 784-512-512-10, batch 128, to a CUDA"
    results["rows"][4] = vars(
        planted_row(
            group="784-512-512-10",
            batch=128,
            times={"graph": [2e-4]},
            notes={"fused": "does other work"},
        )
    )
    assert str(verdict_of(graph, results)).endswith("not measured (does other work)")
    assert "made-up" not in verdict_of("an epoch", results).why
    results["notes"] = [f"The MNIST pixels are {networks.made_up_digits(1).source}."]
    assert verdict_of("an epoch", results).why.endswith("; of made-up pixels, not MNIST's")
    wide = f"a step of {networks.WIDE}:tf32"
    assert verdict_of(wide, results).why == "limit: arithmetic"
    results["accuracy"] = [{"contestant": "fused", "seconds": 0.1, "reached": False}]
    assert str(verdict_of("98%", results)).endswith(": MISSED (reached in 0 of 1 seeds)")
    results["accuracy"][0]["reached"] = True
    assert verdict_of("98%", results)[1:3] == ("met", 0.1)


def test_the_copy_and_the_update_count_the_same_bytes(monkeypatch):
    """Those read and those written."""
    arrays = {}

    def make(count):
        arrays[count] = torch.ones(count), torch.zeros(count)
        return arrays[count]

    make.cache_clear = lambda: None
    monkeypatch.setattr(gpu, "_arrays", make)
    monkeypatch.setattr(gpu, "best_rate", lambda start, seconds: start())
    amount = gpu.copy_rate(4096, 0.0)
    [(source, target)] = arrays.values()
    assert target.equal(source) and amount == source.nbytes + target.nbytes
    for momentum, arrays_moved in ((0.0, 3), (0.9, 5)):
        row = optimizer._compare(1, 100, momentum, EFFORT)
        assert row.bytes == 4 * 100 * arrays_moved
        row.times["gdext"] = [row.bytes / 3e12]
        assert targets._share_of_copy(row, {"copy": {"rate": 4e12}}) == pytest.approx(0.75)


def test_verdicts_are_saved_from_the_first_result_on(monkeypatch, tmp_path):
    """However the process ends: here by what nobody catches, between two rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "missing", lambda: None)
    monkeypatch.setattr(cli.machine, "machine", lambda device: {"gpu": GPU})
    monkeypatch.setattr(cli.machine, "use_cores", lambda count: None)
    monkeypatch.setattr(cli.gpu, "limits", lambda seconds: {**LIMITS, "notes": []})
    who = []

    def trained(names, seeds, threads, device):
        who.extend(names)
        yield {"contestant": "fused", "seed": 0, "seconds": 0.1, "accuracy": 0.98, "reached": True}
        saved = json.loads((tmp_path / "o" / "benchmark.json").read_text())
        assert [v["verdict"] for v in saved["targets"]][-1] == "met"

    def rows(names, jax, effort, device):
        yield target_rows()[5]
        raise SystemExit(9)

    monkeypatch.setattr(cli.accuracy, "run", trained)
    monkeypatch.setattr(targets, "rows", rows)
    with pytest.raises(SystemExit):
        cli.main(["--device", "cuda", "--sections", "accuracy", "limits", "targets", "--out", "o",
                  "--contestants", "layers", "eager", "fused"])  # fmt: skip
    assert who == ["fused"]
    saved = json.loads((tmp_path / "o" / "benchmark.json").read_text())
    found = {v["what"]: v["verdict"] for v in saved["targets"]}
    assert len(found) == len(targets.TARGETS) + 1
    assert [what for what, verdict in found.items() if verdict == "met"] == [
        "an epoch of 60,000 single samples in one call", "98% on MNIST, from data on the device"
    ]  # fmt: skip
    report = (tmp_path / "o" / "benchmark.md").read_text()
    assert report.count("not measured") == len(found) - 2
