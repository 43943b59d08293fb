"""Whole training steps: forward, loss, backward and update."""

from __future__ import annotations

from collections.abc import Iterator

from gdext.benchmark import rounds
from gdext.benchmark.contestants import HERE, Unavailable, eager
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import Case, Network, make_case
from gdext.benchmark.results import Row
from gdext.benchmark.rounds import Effort, Timer

# How far apart two contestants' parameters may come in a turn, relatively. Rounding errors make at
# most a tenth of it; a step left out, or another rate, makes more.
TOLERANCE = 0.005


def run(
    networks: list[Network],
    batches: list[int] | None,
    contestants: list[str],
    jax: JaxPeer | Unavailable,
    effort: Effort,
) -> Iterator[Row]:
    """A row for each network and batch size (`batches`, else the network's own)."""
    for network in networks:
        for batch in batches or network.batches:
            case = make_case(network, batch, steps_of_turn(network, batch, effort))
            row = Row(
                "steps",
                network.name,
                f"{network.title}, batch {batch}",
                network.flops(batch),
                network.bytes(batch),
                batch,
            )
            timers = _timers(case, contestants, jax, row.notes)
            rounds.measure(row, timers, network.working_set, effort)
            # A turn has many steps; a row is about one.
            row.times = {k: [t / case.steps for t in v] for k, v in row.times.items()}
            yield row


def steps_of_turn(network: Network, batch: int, effort: Effort) -> int:
    """Enough for what is done once in a turn to be small, and no more, since a slow contestant
    takes them too."""
    wanted = max(effort.flops / network.flops(batch), effort.samples / batch, effort.steps)
    return min(int(wanted), 4096)


def _timers(
    case: Case, contestants: list[str], jax: JaxPeer | Unavailable, notes: dict[str, str]
) -> dict[str, Timer]:
    reference = eager(case).way()
    timers: dict[str, Timer] = {}
    timer: Timer
    for name in contestants:
        try:
            if name in HERE:
                contestant = HERE[name](case)
                timer, way = contestant.time, contestant.way()
            elif isinstance(jax, JaxPeer):
                timer, way = jax.build(name, case)
            else:
                raise jax
            check_way(way, reference)
            timers[name] = timer
        except Unavailable as error:
            notes[name] = str(error)
    return timers


def check_way(way: list[float], reference: list[float]) -> None:
    """
    Raises:
        Unavailable: a contestant's parameters moved otherwise than torch eager's: it did other
            work, and its times would say nothing.
    """
    for i, (got, wanted) in enumerate(zip(way, reference, strict=True)):
        if not abs(got - wanted) <= TOLERANCE * wanted:
            raise Unavailable(
                f"does other work than torch eager: parameter {i} moved by {got:.4g}, "
                f"wanted {wanted:.4g}"
            )
