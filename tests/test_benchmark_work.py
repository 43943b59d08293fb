"""What the benchmark times: that every contestant does the work it is said to do."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from planted_benchmark import EFFORT, TINY, TINY_MSE, planted_row
from torch.utils.flop_counter import FlopCounterMode

import gdext
from gdext import data
from gdext.benchmark import (
    accuracy,
    contestants,
    limits,
    machine,
    memory,
    networks,
    ops,
    optimizer,
    rounds,
    steps,
    tables,
)
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import NETWORKS
from gdext.benchmark.process import in_new_process
from gdext.benchmark.rounds import Unavailable


@pytest.mark.parametrize("network", [*NETWORKS.values(), TINY, TINY_MSE], ids=lambda n: n.name)
def test_flops_are_those_torch_counts(network):
    case = networks.make_case(network, 2, 2)
    contestant = contestants.eager(case)
    with FlopCounterMode(display=False) as counter:
        contestant.work(case.steps)
    assert network.flops(2) * case.steps == counter.get_total_flops()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda n: n.name)
def test_every_network_has_the_batches_that_all_have(network):
    assert {1, 8, 32, 128, 512, 4096} <= set(network.batches)


def test_parameters_and_bytes():
    count = sum(p.numel() for p in networks.make_case(TINY, 2, 1).initial)
    assert TINY.parameters == count == 6 * 5 + 5 + 5 * 5 + 5 + 5 * 3 + 3
    assert TINY.working_set == 4 * count
    assert TINY.bytes(3) == 4 * (2 * count + 3 * 6)


def test_case_has_as_many_steps_as_asked_for():
    case = networks.make_case(TINY, 3, 4)
    assert [(x.shape, y.shape) for x, y in case.batches] == [((3, 6), (3,))] * 4


@pytest.mark.parametrize(
    ("flops", "samples", "steps_at_least", "expected"),
    [(5.5, 2, 1, 5), (5.5, 21, 1, 10), (0, 0, 1, 1), (5.5, 21, 16, 16), (1e9, 0, 16, 2048)],
)
def test_steps_of_a_turn(flops, samples, steps_at_least, expected):
    flops *= TINY.flops(2)
    effort = rounds.Effort(3, 0.0, 0.0, flops=flops, samples=samples, steps=steps_at_least)
    assert steps.steps_of_turn(TINY, 2, effort) == expected


def test_made_up_digits_are_as_sparse_as_mnist():
    pixels, labels, _ = networks.made_up_digits(2000)
    assert (pixels != 0).float().mean() == pytest.approx(0.19, abs=0.01)
    assert pixels.aminmax() == (0, pytest.approx(1, abs=1e-3))
    assert pixels.view(-1, 28, 28)[:, :4].abs().max() == 0
    assert set(labels.tolist()) == set(range(10))


def test_contestants_take_turns_and_repeats_are_divided_out(rates):
    calls = []

    def fake(name, seconds):
        def timer(repeats):
            calls.append((name, repeats))
            return repeats * seconds

        return timer

    effort = rounds.Effort(rounds=4, turn=0.01, limit=0.0, flops=0, samples=0, steps=1)
    row = planted_row(times={}, limits={})
    rounds.measure(row, {"fused": fake("fused", 1e-3), "eager": fake("eager", 0.1)}, 4096, effort)
    assert row.times == {"fused": [pytest.approx(1e-3)] * 4, "eager": [pytest.approx(0.1)] * 4}
    assert row.limits == {
        "arithmetic": [pytest.approx(1e-4)] * 4,  # 1e6 operations
        "traffic": [pytest.approx(1e-4)] * 4,  # 1e5 bytes
    }
    assert calls[:3] == [("fused", 1), ("fused", 1), ("eager", 1)]  # how many fill a turn
    turns = calls[3:]
    assert sorted(turns) == [("eager", 1)] * 4 + [("fused", 10)] * 4
    assert all(
        {a[0], b[0]} == {"fused", "eager"} for a, b in zip(turns[::2], turns[1::2], strict=True)
    )


def test_timer_counts_the_work_it_is_asked_for():
    done = []
    seconds = rounds.timer(lambda: done.append(time.sleep(0.002)))(5)
    assert len(done) == 5
    assert seconds >= 0.01


@pytest.mark.parametrize("calls", [0, 1, 2, 4])
def test_a_contestant_that_dies_is_dropped_from_its_row(rates, calls):
    left = iter(range(calls))

    def dying(repeats):
        if next(left, None) is None:
            raise Unavailable("JAX's process ended")
        return repeats * 1e-3

    row = planted_row(times={}, limits={}, notes={})
    effort = rounds.Effort(rounds=4, turn=0.01, limit=0.0, flops=0, samples=0, steps=1)
    timers = {"jax-jit": dying, "eager": lambda repeats: repeats * 1e-3}
    rounds.measure(row, timers, 4096, effort)
    assert list(row.times) == ["eager"] and len(row.times["eager"]) == 4
    assert row.notes == {"jax-jit": "JAX's process ended"}


def test_a_contestant_that_cannot_take_part_is_a_note(rates):
    [row] = steps.run([TINY], [2], ["eager", "jax-jit"], Unavailable("no jax here"), EFFORT)
    assert list(row.times) == ["eager"]
    assert row.notes == {"jax-jit": "no jax here"}
    assert "JAX jit              no jax here" in tables.row_text(row)


def test_interpreter_without_jax(tmp_path):
    with pytest.raises(Unavailable, match="cannot be started: No such file"):
        JaxPeer(str(tmp_path / "python"))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\n")
    silent.chmod(0o755)
    with pytest.raises(Unavailable, match="JAX's process ended"):
        JaxPeer(str(silent))
    isolated = tmp_path / "isolated"
    isolated.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    isolated.chmod(0o755)
    with pytest.raises(Unavailable, match="JAX: No module named 'jax'"):
        JaxPeer(str(isolated))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fma_peak_and_bandwidth(dtype):
    assert 1e6 < torch.ops.gdext._fma_peak(dtype, 0.0) < 1e15
    assert 1e6 < torch.ops.gdext._bandwidth(1 << 16, 0.0) < 1e15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: op._fma_peak(torch.int32, 0.0), "dtype: wanted float32 or float64, got int32"),
        (lambda op: op._fma_peak(torch.float32, -1.0), "seconds: wanted a finite number >= 0"),
        (lambda op: op._bandwidth(1 << 16, float("nan")), "seconds: wanted a finite number >= 0"),
        (lambda op: op._bandwidth(1023, 0.0), "bytes: wanted a number from 1024 to .*, got 1023"),
    ],
)
def test_peak_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ops.gdext)


def test_limits_of_each_instruction_set(monkeypatch):
    monkeypatch.setattr(limits, "SIZES", [2**14])
    monkeypatch.setattr(limits, "COPY_BYTES", 2**16)
    found = limits.run(0.0, 1)
    sets = {peak["isa"] for peak in found["fma"]}
    assert {found["isa"], "scalar"} <= sets
    assert len(found["fma"]) == 2 * len(sets)
    assert found["notes"] == []
    assert "update of 16 KiB: " in tables.limits_text(found)


def test_an_instruction_set_that_is_not_there_and_a_crash_are_told_apart(monkeypatch, rates):
    monkeypatch.setattr(limits, "SIZES", [2**14])
    monkeypatch.setattr(limits, "COPY_BYTES", 2**16)
    reasons = {
        "avx512": RuntimeError("this processor does not have that instruction set"),
        "avx2": BrokenProcessPool("terminated abruptly"),
    }

    def failing(function, isa, *arguments, **environ):
        if isa in reasons:
            raise reasons[isa]
        return []

    cpu = {"compiled": ["avx512", "avx2", "scalar"], "in_use": "scalar"}
    monkeypatch.setattr(limits, "build_info", lambda: {"cpu": cpu})
    monkeypatch.setattr(limits, "in_new_process", failing)
    assert limits.run(0.0, 1)["notes"] == ["limits: the process that measured avx2 crashed"]
    reasons["scalar"] = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        limits.run(0.0, 1)


def test_why_a_new_process_cannot_import_is_told():
    with pytest.raises(RuntimeError, match="GDEXT_CPU_ISA=abacus: wanted one of") as caught:
        in_new_process(limits.fma_peaks, "abacus", 0.0, 1, GDEXT_CPU_ISA="abacus")
    assert not isinstance(caught.value, BrokenProcessPool)
    with pytest.raises(BrokenProcessPool):
        in_new_process(os.abort)


def test_ops_and_optimizer_sections(monkeypatch, rates):
    monkeypatch.setattr(ops, "PRODUCTS", [(3, 4, 5)])
    monkeypatch.setattr(ops, "LAYERS", [(2, 3, 4)])
    monkeypatch.setattr(ops, "WIDE_OUTPUT", (2, 3, 4))
    monkeypatch.setattr(ops, "CROSS_ENTROPIES", [(2, 3)])
    monkeypatch.setattr(ops, "ERRORS", [(2, 3)])
    found = {row.label: row for row in ops.run(EFFORT)}
    product = found["dz w, B 3, I 4, O 5"]
    assert (product.flops, product.bytes) == (2 * 3 * 4 * 5, 4 * (12 + 20 + 15))
    one_sample = len(ops.ONE_SAMPLE_ACTIVATIONS) + 2
    assert len(found) == 3 + 2 * (1 + len(ops.ACTIVATIONS) - 1 + 1 + 1) + one_sample
    assert all(min(row.times["gdext"] + row.times["torch"]) > 0 for row in found.values())

    monkeypatch.setattr(optimizer, "LISTS", [(2, 3), (1, 1000)])
    rows = list(optimizer.run(EFFORT, most_elements=999))
    assert [(row.label, row.bytes) for row in rows] == [
        ("2 x 3, momentum 0", 4 * 3 * 6),
        ("2 x 3, momentum 0.9", 4 * 5 * 6),
    ]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    "change", [{"maximize": True}, {"lr": 0.0101}, {"momentum": 0.8}, {"weight_decay": 1e-3}]
)
def test_optimizers_that_do_other_work_are_left_out(rates, monkeypatch, momentum, change):
    sgd = gdext.optim.SGD
    row = optimizer._compare(3, 40, momentum, EFFORT)
    assert list(row.times) == ["gdext", "torch fused", "torch foreach"] and not row.notes
    monkeypatch.setattr(gdext.optim, "SGD", lambda params, **own: sgd(params, **{**own, **change}))
    row = optimizer._compare(3, 40, momentum, EFFORT)
    assert list(row.times) == ["torch fused", "torch foreach"]
    assert row.notes == {"gdext": "ends at other parameters than torch fused"}


def test_ops_are_compared_with_their_own_twins():
    for make in (ops._products, ops._layers, ops._activations, ops._losses, ops._one_sample):
        for op in make():
            ours, theirs = op.ours(), op.theirs()
            if isinstance(ours, torch.Tensor):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3, msg=op.label)


def test_memory_is_at_least_that_of_parameters_and_gradients():
    try:
        size = in_new_process(memory.peak, "eager", "784-512-512-10", 1, 1, **memory.ENVIRONMENT)
    except Unavailable as error:
        pytest.skip(str(error))
    both = 2 * NETWORKS["784-512-512-10"].working_set
    assert both < size < 3 * both


def test_accuracy_takes_turns_and_adds_up(monkeypatch):
    def trained(function, engine, seed, threads, device):
        last = 0.979 if (engine, seed) == ("fused", 0) else 0.981
        return [{"seconds": 1.5, "test_accuracy": 0.9}, {"seconds": 1.0, "test_accuracy": last}]

    monkeypatch.setattr(accuracy, "in_new_process", trained)
    runs = list(accuracy.run(["fused", "eager", "layers"], seeds=2, threads=1))
    assert [(run["contestant"], run["seed"]) for run in runs] == [
        ("fused", 0), ("eager", 0), ("fused", 1), ("eager", 1)
    ]  # fmt: skip
    assert runs[1]["seconds"] == 2.5 and runs[1]["accuracy"] == 0.981
    assert runs[0]["seconds"] == 2.5 and runs[0]["accuracy"] == 0.979
    assert [run["reached"] for run in runs] == [False, True, True, True]


def test_a_seed_that_misses_the_target_is_a_result(monkeypatch):
    def missing(arguments):
        folder = Path(arguments[arguments.index("--out") + 1])
        (folder / "metrics.jsonl").write_text('{"seconds": 1.0, "test_accuracy": 0.9}\n')
        print("train_mnist.py: --target-accuracy 0.98 was not reached", file=sys.stderr)
        return 1

    monkeypatch.setattr(accuracy.cli, "main", missing)
    assert accuracy.train("fused", 0, torch.get_num_threads()) == [
        {"seconds": 1.0, "test_accuracy": 0.9}
    ]


def test_accuracy_says_why_the_trainer_refused():
    with pytest.raises(Unavailable, match=r"train_mnist\.py: error: "):
        accuracy.train("nothing", 0, 1)


def test_fewer_cores_hold_for_child_processes():
    assert in_new_process(_cores_after_using_one) == (1, 1, 1)


def _cores_after_using_one() -> tuple[int, int, int]:
    machine.use_cores(1)
    return machine.cores(), torch.get_num_threads(), in_new_process(machine.cores)


def test_mnist_that_is_not_there_is_said(monkeypatch, capsys):
    def missing(**options):
        raise data.DataError("MNIST: no files")

    monkeypatch.setattr(data, "mnist", missing)
    networks.mnist.cache_clear()
    try:
        pixels, _, source = networks.mnist()
    finally:
        networks.mnist.cache_clear()
    assert "made-up pixels stand in: MNIST: no files" in capsys.readouterr().err
    assert pixels.shape == (4096, 784) and "made up" in source
