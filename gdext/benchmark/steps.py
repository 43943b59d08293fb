"""Whole training steps: forward, loss, backward and update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from gdext.benchmark import rounds
from gdext.benchmark.contestants import eager, make
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import Case, Network, make_case
from gdext.benchmark.results import Row
from gdext.benchmark.rounds import Effort, Timer, Unavailable

# How far from torch eager's parameters a contestant's may end, relatively to the way that eager's
# went. After the first steps: another order of summation makes 1e-5, and up to 1e-3 where a sum
# comes out on the other side of a ReLU's zero for one sample, while a learning rate wrong by 1%
# makes 0.9%, and a step left out more. Over a whole turn of thousands of steps such differences
# grow (to 0.6%), so that only a good part of the steps left out can still be told from them.
TOLERANCE = 0.004
TOLERANCE_OF_TURN = 0.1


def run(
    networks: list[Network],
    batches: list[int] | None,
    contestants: list[str],
    jax: JaxPeer | Unavailable,
    effort: Effort,
    device: str = "cpu",
) -> Iterator[Row]:
    """A row for each network and batch size (`batches`, else the network's own)."""
    for network in networks:
        for batch in batches or network.batches:
            case = make_case(network, batch, steps_of_turn(network, batch, effort), device)
            row = Row(
                "steps",
                network.name,
                f"{network.title}, batch {batch}",
                network.flops(batch),
                network.bytes(batch),
                batch,
            )
            timers = _timers(case, contestants, jax, row.notes)
            rounds.measure(row, timers, network.working_set, effort, device)
            # A turn has many steps; a row is about one.
            row.times = {k: [t / case.steps for t in v] for k, v in row.times.items()}
            yield row


def steps_of_turn(network: Network, batch: int, effort: Effort) -> int:
    """Enough for what is done once in a turn to be small, and no more, since a slow contestant
    takes them too."""
    wanted = max(effort.flops / network.flops(batch), effort.samples / batch, effort.steps)
    return min(int(wanted), 2048)


def _timers(
    case: Case, contestants: list[str], jax: JaxPeer | Unavailable, notes: dict[str, str]
) -> dict[str, Timer]:
    reference = eager(case)
    checks = [Check(case, s, reference.end(s), tolerance) for s, tolerance in to_check(case)]
    timers: dict[str, Timer] = {}
    timer: Timer
    end: Callable[[int], list[Tensor]]
    for name in contestants:
        try:
            contestant = make(name, case)
            if contestant is not None:
                timer, end = contestant.time, contestant.end
            elif isinstance(jax, JaxPeer):
                timer, end = jax.build(name, case)
            else:
                raise jax
            for check in checks:
                check_end(end(check.steps), check)
            timers[name] = timer
        except Unavailable as error:
            notes[name] = str(error)
    return timers


class Check(NamedTuple):
    """parameters: torch eager's after the case's first `steps` steps."""

    case: Case
    steps: int
    parameters: list[Tensor]
    tolerance: float


def to_check(case: Case) -> list[tuple[int, float]]:
    """(steps, tolerance). The fewer samples in all, the more does one of them, on the other side of
    a ReLU's zero, count."""
    first = min(case.steps, max(8, 128 // case.batch))
    checks = [(first, TOLERANCE)]
    return checks if first == case.steps else [*checks, (case.steps, TOLERANCE_OF_TURN)]


def check_end(parameters: list[Tensor], check: Check) -> None:
    """
    Raises:
        Unavailable: a contestant's parameters ended elsewhere than torch eager's: it did other
            work, and its times would say nothing.
    """
    triples = zip(parameters, check.parameters, check.case.initial, strict=True)
    for i, (got, wanted, initial) in enumerate(triples):
        off, way = float((got - wanted).norm()), float((wanted - initial).norm())
        if not off <= check.tolerance * way:
            raise Unavailable(
                f"does other work than torch eager: after {check.steps} steps parameter {i} is off "
                f"by {off:.2g}, torch eager's moved by {way:.2g}"
            )
