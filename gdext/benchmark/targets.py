"""What gdext is to reach on a GPU, and the few rows that tell: an epoch of single samples, middling
and large batches in float32, tf32 and bfloat16, a large update, the time to 98% on MNIST."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

from gdext.benchmark import optimizer, steps
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import LOW_PRECISION, NETWORKS, find, make_case
from gdext.benchmark.results import Row, floor, share_of_limit, speed
from gdext.benchmark.rounds import Effort, Unavailable

MIDDLE = "784-512-512-10"
EPOCH, EPOCH_NETWORK = 60_000, f"{MIDDLE}:mnist"
# Those whose step of a single sample is no call from Python, and those that one is held against.
OF_EPOCH = ("fused", "graph", "jax-scan")
OF_SINGLE_SAMPLES = ("fused", "eager", "graph")
LARGE = 100_000_000  # elements
SECONDS_TO_98 = 0.15


class Target(NamedTuple):
    """measured: of a row of `section`, `group` and `batch`, by `of`; wanted: at least that, or at
    most, if it is a time."""

    what: str
    section: str
    group: str
    batch: int | None
    of: Callable[[Row], float]
    unit: str
    wanted: float
    is_time: bool = False


def _faster_than(peer: str) -> Callable[[Row], float]:
    return lambda row: speed(row, "fused", peer)


def _epoch(row: Row) -> float:
    return EPOCH * median(row.times["fused"])


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
        Target(f"SGD of 10^8 floats, {group}, to the machine's limit", "optimizer", group, None,
               lambda row: share_of_limit(row, "gdext"), "x the speed", 0.9)
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


def text(results: dict[str, Any]) -> list[str]:
    """A line for each target that there is a row for, and for the time to 98%."""
    lines = []
    found = [Row(**row) for row in results["rows"]]
    for target in TARGETS:
        row = next((row for row in found if _is_for(target, row)), None)
        if row is None:
            continue
        try:
            measured = target.of(row)
        except KeyError as missing:
            said = f"not measured: {missing.args[0]} took no part"
        else:
            said = f"{measured:.3g} {target.unit}, "
            said += _judged(measured, target.wanted, target.is_time)
        lines.append(f"{target.what}: {said} (limit: {floor(row).bound})")
    seconds = [
        run["seconds"]
        for run in results["accuracy"]
        if run["contestant"] == "fused" and run["reached"]
    ]
    if seconds:
        judged = _judged(median(seconds), SECONDS_TO_98, is_time=True)
        lines.append(
            f"98% on MNIST, from data on the device: {median(seconds):.3g} s of training, {judged}"
        )
    return lines


def _is_for(target: Target, row: Row) -> bool:
    large = target.section != "optimizer" or row.label.startswith(f"1 x {LARGE:,},")
    same = (row.section, row.group, row.batch) == (target.section, target.group, target.batch)
    return same and large


def _judged(measured: float, wanted: float, is_time: bool) -> str:
    met = measured <= wanted if is_time else measured >= wanted
    return f"wanted {wanted:g}: {'met' if met else 'MISSED'}"
