"""The benchmark's check that every contestant does the same work."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from planted_benchmark import EFFORT, TINY, TINY_MSE

from gdext.benchmark import (
    contestants,
    limits,
    networks,
    rounds,
    steps,
)
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import NETWORKS, Network
from gdext.benchmark.precision import PRECISIONS, in_force
from gdext.benchmark.rounds import Unavailable

FLOAT32 = PRECISIONS["float32"]


def check_of(case, count):
    tolerance = PRECISIONS[case.network.precision].tolerance
    return steps.Check(case, count, contestants.eager(case).end(count), tolerance)


# In bfloat16 with steps enough for many parameters to move.
BF16 = Network((16, 24, 24, 8), "relu", "cross_entropy", precision="bf16")
BF16_MSE = replace(BF16, activation="tanh", loss="mse")


@pytest.mark.parametrize("network", [TINY, TINY_MSE, BF16, BF16_MSE], ids=lambda n: n.title)
@pytest.mark.parametrize("name", contestants.HERE)
def test_every_contestant_does_the_same_work(name, network):
    case = networks.make_case(network, 2, 8)
    contestant = contestants.HERE[name](case)
    contestant.work(3)  # a turn starts from the initial parameters wherever the last one ended
    for count in (1, 8):
        steps.check_end(contestant.end(count), check_of(case, count))
    assert contestant.time(2) > 0


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize("network", [TINY, TINY_MSE, BF16, BF16_MSE], ids=lambda n: n.title)
@pytest.mark.parametrize("name", ["jax-jit", "jax-scan"])
def test_jax_does_the_same_work(name, network):
    case = networks.make_case(network, 2, 8)
    with JaxPeer(sys.executable) as jax:
        assert set(jax.versions) == {"jax", "jaxlib", "python"}
        timer, end = jax.build(name, case)
        for count in (1, 8):
            steps.check_end(end(count), check_of(case, count))
        assert timer(2) > 0


@pytest.mark.parametrize("network", [TINY, TINY_MSE, NETWORKS["8-64-64-4"]], ids=lambda n: n.name)
@pytest.mark.parametrize("count", [1, 8])
def test_other_work_is_found_out(network, count, monkeypatch):
    case = networks.make_case(network, 2, count)
    check = check_of(case, count)

    def found_out(parameters):
        with pytest.raises(Unavailable, match=f"other work than torch eager: after {count} steps "):
            steps.check_end(parameters, check)

    found_out(case.initial)
    found_out([torch.full_like(p, float("nan")) for p in case.initial])
    found_out(contestants.eager(case).end(count - 1))
    found_out(contestants._loop(case, "torch", maximize=True).end(count))
    # As far in the other direction: in one step the norms of both are the same.
    found_out([2 * p0 - p for p, p0 in zip(check.parameters, case.initial, strict=True)])
    for rate in (0.99, 1.01):
        monkeypatch.setattr(contestants, "LEARNING_RATE", rate * networks.LEARNING_RATE)
        found_out(contestants.layers(case).end(count))


@pytest.mark.parametrize(
    ("batch", "count", "expected"),
    [
        (2, 5, [(5, FLOAT32.tolerance)]),
        (2, 100, [(64, FLOAT32.tolerance), (100, FLOAT32.tolerance_of_turn)]),
        (512, 100, [(8, FLOAT32.tolerance), (100, FLOAT32.tolerance_of_turn)]),
    ],
)
def test_the_first_steps_and_a_whole_turn_are_checked(batch, count, expected):
    assert steps.to_check(networks.make_case(TINY, batch, count)) == expected


def test_other_work_in_a_row_is_a_note(rates, monkeypatch):
    def climbing(case):
        return contestants._loop(case, "torch", maximize=True)

    def stopping_early(case):
        eager = contestants.eager(case)
        all_of_it = eager.work
        eager.work = lambda count: all_of_it(count if count < case.steps else count // 2)
        return eager

    monkeypatch.setitem(contestants.HERE, "layers", climbing)
    monkeypatch.setitem(contestants.HERE, "compile", stopping_early)
    effort = rounds.Effort(3, 0.0, 0.0, flops=0, samples=0, steps=200)
    [row] = steps.run([TINY], [2], ["layers", "compile", "eager"], Unavailable(""), effort)
    assert list(row.times) == ["eager"]
    assert row.other_work == ["layers", "compile"]
    assert "after 64 steps" in row.notes["layers"] and "after 200 steps" in row.notes["compile"]


@pytest.mark.parametrize("network", [BF16, BF16_MSE], ids=lambda n: n.loss)
def test_other_work_in_bfloat16_is_found_out(network):
    case = networks.make_case(network, 4, 32)
    check = check_of(case, 32)
    others = (
        case.initial,
        contestants.eager(case).end(16),
        contestants._loop(case, "torch", maximize=True).end(32),
    )
    for parameters in others:
        with pytest.raises(Unavailable, match="other work than torch eager: after 32 steps"):
            steps.check_end(parameters, check)


def test_all_of_a_row_is_in_its_precision_and_nothing_else(rates, monkeypatch):
    """Contestants are made, checked and timed under the setting, which ends with the row."""
    seen = []

    def watching(case):
        contestant = contestants.layers(case)
        all_of_it = contestant.work

        def work(count):
            seen.append(torch.get_float32_matmul_precision())
            return all_of_it(count)

        seen.append(torch.get_float32_matmul_precision())
        contestant.work = work
        return contestant

    monkeypatch.setitem(contestants.HERE, "layers", watching)
    monkeypatch.setattr(limits, "matrix_rate", lambda dtype, seconds: 1e10)
    before = torch.get_float32_matmul_precision()
    wanted = {"tf32": "high", "float32": "highest", "bf16": "highest"}
    for precision, setting in wanted.items():
        seen.clear()
        network = replace(TINY, precision=precision)
        [row] = steps.run([network], [2], ["layers", "eager"], Unavailable(""), EFFORT)
        assert row.precision == precision and set(row.times) == {"layers", "eager"}
        assert len(seen) > 4 and set(seen) == {setting}
        assert torch.get_float32_matmul_precision() == before

    def failing(case):
        raise RuntimeError("no memory")

    monkeypatch.setitem(contestants.HERE, "layers", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        next(steps.run([replace(TINY, precision="tf32")], [2], ["layers"], Unavailable(""), EFFORT))
    assert torch.get_float32_matmul_precision() == before


def test_in_force_gives_back_what_was_set():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with in_force("tf32"):
            assert torch.ops.gdext._allows_tf32()
            with in_force("float32"):
                assert not torch.ops.gdext._allows_tf32()
            assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
