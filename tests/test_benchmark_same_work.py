"""The benchmark's check that every contestant does the same work."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch
from planted_benchmark import TINY, TINY_MSE

from gdext.benchmark import (
    contestants,
    networks,
    rounds,
    steps,
)
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import NETWORKS
from gdext.benchmark.rounds import Unavailable


def check_of(case, count):
    return steps.Check(case, count, contestants.eager(case).end(count), steps.TOLERANCE)


@pytest.mark.parametrize("network", [TINY, TINY_MSE], ids=lambda n: n.name)
@pytest.mark.parametrize("name", contestants.HERE)
def test_every_contestant_does_the_same_work(name, network):
    case = networks.make_case(network, 2, 8)
    contestant = contestants.HERE[name](case)
    contestant.work(3)  # a turn starts from the initial parameters wherever the last one ended
    for count in (1, 8):
        steps.check_end(contestant.end(count), check_of(case, count))
    assert contestant.time(2) > 0


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize("network", [TINY, TINY_MSE], ids=lambda n: n.name)
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
        (2, 5, [(5, steps.TOLERANCE)]),
        (2, 100, [(64, steps.TOLERANCE), (100, steps.TOLERANCE_OF_TURN)]),
        (512, 100, [(8, steps.TOLERANCE), (100, steps.TOLERANCE_OF_TURN)]),
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
    assert "after 64 steps" in row.notes["layers"] and "after 200 steps" in row.notes["compile"]
