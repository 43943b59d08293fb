"""What gdext is to reach on a GPU, and the few rows that tell: an epoch of single samples, middling
and large batches in float32, tf32 and bfloat16, a large update, the time to 98% on MNIST."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from statistics import median
from typing import Any, NamedTuple

from gdext.benchmark import optimizer, steps
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import LOW_PRECISION, NETWORKS, find, make_case
from gdext.benchmark.results import Row, floor, speed
from gdext.benchmark.rounds import Effort, Unavailable

MIDDLE = "784-512-512-10"
EPOCH, EPOCH_NETWORK = 60_000, f"{MIDDLE}:mnist"
# Who has a target, or is held against. Others take seconds for an epoch of single samples.
OF_ACCURACY = ("fused",)
OF_EPOCH = ("fused",)
OF_SINGLE_SAMPLES = ("fused", "eager", "graph")
LARGE = 100_000_000  # elements
SECONDS_TO_98 = 0.15
MET, MISSED, NOT_MEASURED = "met", "MISSED", "not measured"

Results = dict[str, Any]


class Target(NamedTuple):
    """measured: of a row of `section`, `group` and `batch`, and of the machine's limits, by `of`;
    wanted: at least that, or at most, if it is a time."""

    what: str
    section: str
    group: str
    batch: int | None
    of: Callable[[Row, Results], float]
    unit: str
    wanted: float
    is_time: bool = False


class Verdict(NamedTuple):
    """verdict: MET, MISSED or NOT_MEASURED; measured: in `unit`, None where there is no number;
    why: it was not measured, or what else is to be known."""

    what: str
    verdict: str
    measured: float | None
    unit: str
    wanted: float
    why: str = ""

    def __str__(self) -> str:
        if self.measured is None:
            said = self.verdict
        else:
            said = f"{self.measured:.3g} {self.unit}, wanted {self.wanted:g}: {self.verdict}"
        return f"{self.what}: {said}{self.why and f' ({self.why})'}"


def _faster_than(peer: str) -> Callable[[Row, Results], float]:
    return lambda row, limits: speed(row, "fused", peer)


def _epoch(row: Row, limits: Results) -> float:
    return EPOCH * median(row.times["fused"])


def _share_of_copy(row: Row, limits: Results) -> float:
    """Both count every byte read and every byte written: the update's from the row (p, g, and with
    momentum m), the copy's from the section limits. The row's own limit would not do: on a GPU that
    is the rate of a kernel of gdext's."""
    return row.bytes / median(row.times["gdext"]) / float(limits["copy"]["rate"])


TARGETS = (
    Target("an epoch of 60,000 single samples in one call", "epoch", EPOCH_NETWORK, 1, _epoch, "s",
           0.5, is_time=True),
    *(
        Target(f"a step of {name}, batch {batch}, to {peer}", "steps", name, batch,
               _faster_than(contestant), "x the speed", wanted)
        for name, batch, peer, contestant, wanted in (
            (EPOCH_NETWORK, 1, "torch eager's", "eager", 50),
            (EPOCH_NETWORK, 1, "a CUDA graph's", "graph", 10),
            (MIDDLE, 128, "torch eager's", "eager", 8),
            (MIDDLE, 128, "a CUDA graph's", "graph", 1.5),
        )
    ),
    *(
        Target(f"a step of {name}, batch 4096, to torch.compile's", "steps", name, 4096,
               _faster_than("compile"), "x the speed", 0.9)
        for name in LOW_PRECISION
    ),
    *(
        Target(f"SGD of 10^8 floats, {group}, to torch's copy", "optimizer", group, None,
               _share_of_copy, "x the bandwidth", 0.9)
        for group in ("momentum 0", "momentum 0.9")
    ),
)  # fmt: skip


def rows(
    contestants: list[str], jax: JaxPeer | Unavailable, effort: Effort, device: str
) -> Iterator[Row]:
    """Those that TARGETS ask for."""
    for name in LOW_PRECISION:
        network = find(name)
        assert network is not None
        yield from steps.run([network], [4096], contestants, jax, effort, device)
    yield from steps.run([NETWORKS[MIDDLE]], [128], contestants, jax, effort, device)
    single = [name for name in OF_SINGLE_SAMPLES if name in contestants]
    yield from steps.run([NETWORKS[EPOCH_NETWORK]], [1], single, jax, effort, device)
    chosen = [name for name in OF_EPOCH if name in contestants]
    case = make_case(NETWORKS[EPOCH_NETWORK], 1, EPOCH, device)
    row = steps.measure(case, chosen, jax, effort)
    yield replace(row, section="epoch", label=f"{row.label}, {EPOCH:,} of them in one call")
    yield from optimizer.run(effort, LARGE, device, [(1, LARGE)])


def verdicts(results: Results) -> list[Verdict]:
    """Of every target, whatever was measured."""
    rows = [Row(**row) for row in results["rows"]]
    return [*(_of_rows(target, rows, results) for target in TARGETS), _of_accuracy(results)]


def text(results: Results) -> list[str]:
    """A line for each target."""
    return [str(verdict) for verdict in verdicts(results)]


def _of_rows(target: Target, rows: list[Row], results: Results) -> Verdict:
    def verdict(said: str, measured: float | None, why: str) -> Verdict:
        return Verdict(target.what, said, measured, target.unit, target.wanted, why)

    row = next((row for row in rows if _is_for(target, row)), None)
    if row is None:
        return verdict(NOT_MEASURED, None, _reason("targets", results))
    try:
        measured = target.of(row, results["limits"])
    except KeyError as missing:
        name = missing.args[0]
        if name == "copy":
            return verdict(NOT_MEASURED, None, _reason("limits", results))
        return verdict(NOT_MEASURED, None, row.notes.get(name, f"{name} took no part"))
    why = f"limit: {floor(row).bound}"
    if ":mnist" in target.group and any("made up" in note for note in results["notes"]):
        why += "; of made-up pixels, not MNIST's"
    return verdict(_judged(measured, target.wanted, target.is_time), measured, why)


def _of_accuracy(results: Results) -> Verdict:
    """A run that does not reach it takes for ever."""

    def verdict(said: str, measured: float | None, why: str) -> Verdict:
        what = "98% on MNIST, from data on the device"
        return Verdict(what, said, measured, "s of training", SECONDS_TO_98, why)

    runs = [run for run in results["accuracy"] if run["contestant"] in OF_ACCURACY]
    if not runs:
        return verdict(NOT_MEASURED, None, _reason("accuracy", results))
    reached = [run["seconds"] for run in runs if run["reached"]]
    why = f"reached in {len(reached)} of {len(runs)} seeds"
    seconds = median([*reached, *[inf] * (len(runs) - len(reached))])
    if seconds == inf:
        return verdict(MISSED, None, why)
    return verdict(_judged(seconds, SECONDS_TO_98, is_time=True), seconds, why)


def _reason(section: str, results: Results) -> str:
    """Why there is nothing of it: what a note says, if one does."""
    said = [note for note in results["notes"] if note.startswith(f"{section}: ")]
    return said[0] if said else f"nothing of it in the section {section}"


def _is_for(target: Target, row: Row) -> bool:
    large = target.section != "optimizer" or row.label.startswith(f"1 x {LARGE:,},")
    same = (row.section, row.group, row.batch) == (target.section, target.group, target.batch)
    return same and large


def _judged(measured: float, wanted: float, is_time: bool) -> str:
    return MET if (measured <= wanted if is_time else measured >= wanted) else MISSED
