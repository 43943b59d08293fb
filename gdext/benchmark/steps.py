"""Whole training steps: forward, loss, backward and update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from gdext.benchmark import rounds
from gdext.benchmark.contestants import eager, make
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import Case, Network, make_case
from gdext.benchmark.precision import PRECISIONS, in_force
from gdext.benchmark.results import Row
from gdext.benchmark.rounds import Effort, OtherWork, Timer, Unavailable

MOST_STEPS = 2048  # of a turn; the check of a whole turn takes them in Python


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
            yield measure(case, contestants, jax, effort)


def measure(case: Case, contestants: list[str], jax: JaxPeer | Unavailable, effort: Effort) -> Row:
    """The row of this case, all of it in the network's precision."""
    network, batch = case.network, case.batch
    row = Row(
        "steps",
        network.name,
        f"{network.title}, batch {batch}",
        network.flops(batch),
        network.bytes(batch),
        batch,
        network.precision,
    )
    with in_force(network.precision):
        timers = _timers(case, contestants, jax, row)
        rounds.measure(row, timers, network.working_set, effort, case.device)
    # A turn has many steps; a row is about one.
    row.times = {k: [t / case.steps for t in v] for k, v in row.times.items()}
    return row


def steps_of_turn(network: Network, batch: int, effort: Effort) -> int:
    """Enough for what is done once in a turn to be small, and no more, since a slow contestant
    takes them too."""
    wanted = max(effort.flops / network.flops(batch), effort.samples / batch, effort.steps)
    return min(int(wanted), MOST_STEPS)


def _timers(
    case: Case, contestants: list[str], jax: JaxPeer | Unavailable, row: Row
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
            row.notes[name] = str(error)
            if isinstance(error, OtherWork):
                row.other_work.append(name)
    return timers


class Check(NamedTuple):
    """parameters: torch eager's after the case's first `steps` steps."""

    case: Case
    steps: int
    parameters: list[Tensor]
    tolerance: float


def to_check(case: Case) -> list[tuple[int, float]]:
    """(steps, tolerance): how far from torch eager's parameters a contestant's may end, relatively
    to the way that eager's went, after the first steps and after a whole turn. The fewer samples in
    all, the more does one of them, on the other side of a ReLU's zero, count."""
    first = min(case.steps, max(8, 128 // case.batch))
    precision = PRECISIONS[case.network.precision]
    checks = [(first, precision.tolerance)]
    if first < case.steps <= MOST_STEPS:
        checks.append((case.steps, precision.tolerance_of_turn))
    return checks


def check_end(parameters: list[Tensor], check: Check) -> None:
    """
    Raises:
        OtherWork: a contestant's parameters ended elsewhere than torch eager's: it did other
            work, and its times would say nothing.
    """
    triples = zip(parameters, check.parameters, check.case.initial, strict=True)
    for i, (got, wanted, initial) in enumerate(triples):
        off = float((got.double() - wanted.double()).norm())
        way = float((wanted.double() - initial.double()).norm())
        if not off <= check.tolerance * way:
            raise OtherWork(
                f"does other work than torch eager: after {check.steps} steps parameter {i} is off "
                f"by {off:.2g}, torch eager's moved by {way:.2g}"
            )
