"""The benchmark on a GPU: what of it can be tried without one, and its contestants where there is
one."""

from __future__ import annotations

import pytest
import torch
from conftest import cuda_missing
from planted_benchmark import EFFORT, GPU, LIMITS, TINY, TINY_MSE, planted_results, planted_row

from gdext.benchmark import (
    cli,
    contestants,
    gpu,
    limits,
    networks,
    rounds,
    steps,
    tables,
)
from gdext.benchmark.networks import LOW_PRECISION, NETWORKS, find
from gdext.benchmark.precision import PRECISIONS
from gdext.benchmark.rounds import Unavailable

on_a_gpu = pytest.mark.skipif(cuda_missing() is not None, reason=str(cuda_missing()))


def cuda_results():
    times = {"layers-graph": [2e-5], "eager": [3e-4], "graph": [4e-5]}
    results = planted_results(planted_row(times=times, notes={"fused": "not on CUDA yet"}))
    results["machine"]["gpu"] = GPU
    return {**results, "device": "cuda", "limits": LIMITS}


def test_report():
    lines = tables.report(cuda_results()).splitlines()
    setting = "Measured on 2026-01-02 on A Graphics Processor (driver 580.1, at most 1980 MHz, "
    assert lines[2].startswith(setting + "compute capability 9.0): float32")
    assert (
        "|  | limit | gdext layers, CUDA graph | torch eager | torch, CUDA graph "
        "| gdext layers, CUDA graph / torch, CUDA graph, speed |"
    ) in lines
    for line in (
        "limits of A Graphics Processor",
        "  multiply-adds, float32: 60.5 TFLOP/s",
        "  torch.matmul, tf32: 420.0 TFLOP/s",
        "  update of 1 MiB: 5,000 GB/s",
        "  copy within 2 GiB: 2,900 GB/s",
    ):
        assert line in lines


def test_a_driver_that_says_nothing_is_left_out():
    results = cuda_results()
    results["machine"]["gpu"] = {"name": "A", "compute_capability": "9.0"}
    assert "on A (compute capability 9.0): float32" in tables.report(results)


def test_the_readme_has_a_block_for_each_device(tmp_path):
    readme = tmp_path / "README.md"
    marks = (tables.BEGIN, tables.END, tables.BEGIN_CUDA, tables.END_CUDA)
    readme.write_text("\n".join(marks) + "\n")
    tables.rewrite_readme(readme, planted_results(planted_row()), tmp_path / "cpu")
    tables.rewrite_readme(readme, cuda_results(), tmp_path / "cuda")
    text = readme.read_text()
    assert [text.index(mark) for mark in marks] == sorted(text.index(mark) for mark in marks)
    on_cpu, on_gpu = text.split(tables.BEGIN_CUDA)
    assert "A Processor" in on_cpu and "A Graphics Processor" not in on_cpu
    assert "A Graphics Processor" in on_gpu and "(cuda/benchmark.md)" in on_gpu


@pytest.mark.parametrize(
    ("available", "compiled", "reason"),
    [
        (False, True, "PyTorch finds no CUDA device here"),
        (True, False, "gdext was built without CUDA: build it again with GDEXT_CUDA=1"),
    ],
)
def test_no_gpu_to_measure(monkeypatch, capsys, tmp_path, available, compiled, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(gpu, "build_info", lambda: {"cuda": {"compiled": compiled}})
    assert cli.main(["--device", "cuda", "--out", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err == f"benchmark.py: error: --device cuda: {reason}\n"
    assert not (tmp_path / "o").exists()


def test_graphs_are_for_cuda_alone():
    assert not {"graph", "layers-graph"} & {*contestants.of_device("cpu")}
    assert contestants.of_device("cuda") == [*contestants.LABELS]
    [row] = steps.run([TINY], [2], ["eager", "graph"], Unavailable(""), EFFORT)
    assert list(row.times) == ["eager"] and row.notes == {"graph": "needs --device cuda"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("precision", "on_cuda", "on_cpu"),
    [("float32", 2e10, 1e10), ("tf32", 3e10, None), ("bf16", 4e10, 5e10)],
)
def test_a_row_is_held_against_the_limit_of_its_precision(
    monkeypatch, rates, device, precision, on_cuda, on_cpu
):
    matrices = {("tf32", torch.float32): 3e10, ("bf16", torch.bfloat16): 4e10}
    monkeypatch.setattr(gpu, "fma_rate", lambda dtype, seconds: {torch.float32: 2e10}[dtype])
    monkeypatch.setattr(gpu, "matrix_rate", lambda *asked: matrices[asked[:2]])
    monkeypatch.setattr(limits, "matrix_rate", lambda dtype, _: {torch.bfloat16: 5e10}[dtype])
    monkeypatch.setattr(gpu, "update_rate", lambda size, seconds: 1e9)
    expected = on_cuda if device == "cuda" else on_cpu
    if expected is None:
        return  # the command line refuses it
    row = planted_row(precision=precision)
    arithmetic, traffic = rounds._limit_timers(row, 4096, 0.0, device)
    assert arithmetic(3) == pytest.approx(3 * row.flops / expected)
    assert traffic(3) == pytest.approx(3 * row.bytes / 1e9)


def test_a_network_in_low_precision():
    assert networks.of_device("cuda", ["a"]) == ["a", *LOW_PRECISION]
    assert networks.of_device("cpu", ["a"]) == ["a"]
    for name, dtype, size in zip(
        LOW_PRECISION, (torch.float32, torch.bfloat16), (4, 2), strict=True
    ):
        network = find(name)
        assert network.name == name and network.dtype == dtype
        assert network.working_set == size * network.parameters
        assert network.bytes(3) == size * (2 * network.parameters + 3 * 784)
        assert network.flops(5) == NETWORKS[networks.WIDE].flops(5)
    assert find("784-512-512-10:mnist:bf16").name == "784-512-512-10:mnist:bf16"
    assert find("784-512-512-10:mnist").precision == "float32"
    assert find("1-2:bf16") is None and find("8-64-64-4:fp8") is None


class FakeEvent:
    """The GPU's clock goes on by a millisecond less with each launch, then slows down again."""

    launches = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = FakeEvent.launches

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return {2: 4.0, 3: 2.0}.get(end.at, 8.0)


def test_the_fastest_launch_counts_and_the_first_does_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    clock = iter([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(clock))
    FakeEvent.launches = 0

    def start():
        FakeEvent.launches += 1
        return 6.0

    assert gpu.best_rate(start, 1.0) == pytest.approx(6.0 / 2e-3)
    assert FakeEvent.launches == 6


def test_a_timer_waits_for_the_gpu_before_and_after(monkeypatch):
    said = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("wait"))
    rounds.timer(lambda: said.append("work"), "cuda")(2)
    assert said == ["wait", "work", "work", "wait"]


def test_what_the_driver_says(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '580.1, 345 MHz, 1980 MHz, 2619 MHz, 700.00 W, P0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = gpu._driver()
    assert said["driver_version"] == "580.1" and said["clocks.max.sm"] == "1980 MHz"
    program.unlink()
    assert gpu._driver() == {}


@on_a_gpu
@pytest.mark.parametrize("network", [TINY, TINY_MSE], ids=lambda n: n.name)
@pytest.mark.parametrize("name", ["layers", "layers-graph", "eager", "graph", "compile"])
def test_every_contestant_does_the_same_work(name, network):
    case = networks.make_case(network, 2, 8, "cuda")
    tolerance = PRECISIONS["float32"].tolerance
    check = steps.Check(case, 8, contestants.eager(case).end(8), tolerance)
    contestant = contestants.make(name, case)
    contestant.work(3)
    steps.check_end(contestant.end(8), check)
    assert contestant.time(2) > 0


@on_a_gpu
def test_limits_are_of_this_world():
    assert 1e11 < gpu.fma_rate(torch.float32, 0.0) < 1e15
    assert 1e9 < gpu.update_rate(2**20, 0.0) < 1e15
    assert 1e9 < gpu.copy_rate(2**26, 0.0) < 1e14


@on_a_gpu
def test_quick_run(monkeypatch, tmp_path):
    monkeypatch.setattr(rounds, "QUICK", EFFORT)
    assert cli.main(["--device", "cuda", "--quick", "--sections", "steps", "--networks",
                     "8-64-64-4", "--batches", "2", "--out", str(tmp_path)]) == 0  # fmt: skip
    report = (tmp_path / "benchmark.md").read_text()
    assert "torch, CUDA graph" in report and "compute capability" in report
