"""Results as text: on the terminal while they come, and as Markdown, all of it from the JSON."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gdext.benchmark import targets
from gdext.benchmark.contestants import LABELS
from gdext.benchmark.networks import FEATURED, find, of_device
from gdext.benchmark.results import (
    BASELINE,
    QUIET,
    Row,
    disturbed,
    floor,
    share_of_limit,
    speed,
    spread,
)

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
BEGIN_CUDA, END_CUDA = "<!-- benchmark on CUDA: begin -->", "<!-- benchmark on CUDA: end -->"
HEADINGS = {
    "steps": "Training steps",
    "epoch": "Training steps, of a whole epoch in one call",
    "ops": "Single ops",
    "optimizer": "The SGD update alone (tensors x elements of each)",
}


def label(contestant: str) -> str:
    return LABELS.get(contestant, contestant)


def rows_of(results: dict[str, Any], section: str) -> list[Row]:
    return [Row(**row) for row in results["rows"] if row["section"] == section]


def row_text(row: Row) -> str:
    """A few lines for the terminal: the contestants under one another, the fastest first."""
    limit, baseline = floor(row), BASELINE[row.section]
    lines = [
        f"{row.label}",
        f"  {'':20} {'us':>11}  {'quartiles':>23}  {'of limit':>8}  {'speed':>7}",
        f"  {'machine limit':20} {microseconds(limit.seconds):>11}  {limit.bound:>23}",
    ]
    for name in sorted(row.times, key=lambda name: spread(row.times[name]).median):
        low, median, high = map(microseconds, spread(row.times[name]))
        compared = f"{speed(row, name, baseline):.2f}x" if baseline in row.times else ""
        lines.append(
            f"  {label(name):20} {median:>11}  {low + ' to ' + high:>23}  "
            f"{share_of_limit(row, name):>8.0%}  {compared:>7}"
        )
    lines += [f"  {label(name):20} {why}" for name, why in row.notes.items()]
    if disturbed(row):
        low, _, high = map(microseconds, spread(row.limits[limit.bound]))
        lines.append(f"  the machine was busy with something else: its limit was {low} to {high}")
    return "\n".join(lines)


def limits_text(limits: dict[str, Any]) -> str:
    if "gpu" in limits:
        lines = [f"limits of {limits['gpu']}"]
        lines += [f"  multiply-adds, {p['dtype']}: {teraflops(p)}" for p in limits["fma"]]
        lines += [f"  torch.matmul, {p['kind']}: {teraflops(p)}" for p in limits["matrix"]]
    else:
        lines = [f"machine limits (instruction set in use: {limits['isa']})"]
        for peak in limits["fma"]:
            lines.append(
                f"  multiply-adds, {peak['isa']}, {peak['dtype']}, {threads(peak['threads'])}: "
                f"{peak['rate'] / 1e9:,.0f} GFLOP/s"
            )
    for point in limits["bandwidth"]:
        lines.append(f"  update of {binary(point['bytes'])}: {point['rate'] / 1e9:,.0f} GB/s")
    copy = limits["copy"]
    lines.append(f"  copy within {binary(copy['bytes'])}: {copy['rate'] / 1e9:,.0f} GB/s")
    return "\n".join(lines)


def teraflops(peak: dict[str, Any]) -> str:
    return f"{peak['rate'] / 1e12:,.1f} TFLOP/s"


def memory_text(row: dict[str, Any]) -> str:
    parts = [
        f"{label(name)} {spread(sizes).median / 1e6:,.1f} MB"
        for name, sizes in row["bytes"].items()
    ]
    parts += [f"{label(name)}: {why}" for name, why in row["notes"].items()]
    return f"peak memory of {row['network']}, batch {row['batch']}: {', '.join(parts)}"


def accuracy_text(run: dict[str, Any]) -> str:
    missed = "" if run["reached"] else ", which misses it"
    return (
        f"98% on MNIST, {label(run['contestant'])}, seed {run['seed']}: "
        f"{run['seconds']:.2f} s of training to {run['accuracy']:.2%}{missed}"
    )


def seeds_text(runs: list[dict[str, Any]], contestant: str) -> str:
    """All seeds of one contestant. The seconds are of those alone that reached the target."""
    runs = [run for run in runs if run["contestant"] == contestant]
    seconds = [run["seconds"] for run in runs if run["reached"]]
    text = f"{label(contestant)} in {len(seconds)} of {len(runs)} seeds"
    if not seconds:
        return text
    low, median, high = spread(seconds)
    deviation = f", standard deviation {stdev(seconds):.2f}" if len(seconds) > 1 else ""
    return (
        f"{text}, after {median:.2f} s (median; mean {fmean(seconds):.2f}{deviation}, quartiles "
        f"{low:.2f} to {high:.2f}, longest {max(seconds):.2f})"
    )


def report(results: dict[str, Any]) -> str:
    """benchmark.md: every number of the JSON that a reader may want."""
    parts = ["# Benchmark", setting(results), picture(results, "benchmark.svg")]
    for section, heading in HEADINGS.items():
        rows = rows_of(results, section)
        if rows:
            parts += [f"## {heading}", "Microseconds, medians (quartiles).", table(rows, True)]
    for key, heading, text in (
        ("memory", "Peak memory of a few training steps", memory_text),
        ("accuracy", "Time to 98% test accuracy on MNIST", accuracy_text),
    ):
        if results[key]:
            parts += [f"## {heading}", "\n".join(f"- {text(row)}" for row in results[key])]
    parts += accuracy_summary(results)
    if on_cuda(results):
        parts += ["## Targets", "\n".join(f"- {line}" for line in targets.text(results))]
    if results["limits"]:
        parts += ["## The machine's limits", f"```\n{limits_text(results['limits'])}\n```"]
    notes = [*results["notes"], *disturbances(results)]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def readme_block(results: dict[str, Any], folder: str) -> str:
    """What stands between the README's markers; `folder` holds the results."""
    featured = of_device(results.get("device", "cpu"), FEATURED)
    rows = [row for row in rows_of(results, "steps") if row.group in featured]
    parts = [
        setting(results),
        picture(results, f"{folder}/benchmark.svg"),
        "Microseconds per training step, medians:",
        table(rows, False),
        *summary(results),
        f"Everything else that was measured, spreads too: [{folder}/benchmark.md]"
        f"({folder}/benchmark.md).",
    ]
    return "\n\n".join(part for part in parts if part)


def rewrite_readme(readme: Path, results: dict[str, Any], folder: Path) -> None:
    """
    Raises:
        ValueError: the README has not both markers, in order.
    """
    first, last = markers(results)
    text = readme.read_text()
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{readme}: wanted the lines {first} and {last}, and both are not there")
    block = readme_block(results, os.path.relpath(folder, readme.parent))
    readme.write_text(f"{before}{first}\n{block}\n{last}{after}")


def on_cuda(results: dict[str, Any]) -> bool:
    return bool(results.get("device") == "cuda")


def markers(results: dict[str, Any]) -> tuple[str, str]:
    """What the README's block of this result stands between."""
    return (BEGIN_CUDA, END_CUDA) if on_cuda(results) else (BEGIN, END)


def processor(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    if not on_cuda(results):
        return (
            f"with {threads(results['threads'])} on {machine['cpu']} "
            f"({versions['instruction_set']})"
        )
    gpu = machine["gpu"]
    shown = [f"driver {gpu['driver_version']}"] if "driver_version" in gpu else []
    if "clocks.max.sm" in gpu:
        shown.append(f"at most {gpu['clocks.max.sm']}")
    shown.append(f"compute capability {gpu['compute_capability']}")
    return f"on {gpu['name']} ({', '.join(shown)})"


def setting(results: dict[str, Any]) -> str:
    versions = results["versions"]
    jax = f", JAX {versions['jax']['jax']}" if versions["jax"] else ""
    precise = all(row.get("precision", "float32") == "float32" for row in results["rows"])
    others = "" if precise else " (where a row says no other)"
    return (
        f"Measured on {results['date'][:10]} {processor(results)}: float32{others}, plain SGD; "
        f"gdext {versions['gdext']} built by {versions['compiler']}, PyTorch {versions['torch']}"
        f"{jax}. All contestants take turns in one run, {results['effort']['rounds']} rounds; "
        "`limit` is the time that the arithmetic or the memory traffic alone takes at the "
        "machine's peak, measured in the same rounds (exact zeros, which the fused step may skip, "
        "count as work). "
        f"`{results['command']}`"
    )


def picture(results: dict[str, Any], path: str) -> str:
    return f"![Time per training step against batch size]({path})" if _has_steps(results) else ""


def table(rows: list[Row], spreads: bool) -> str:
    """Markdown; a column for each contestant that any row has, the fastest in bold."""
    names = list(dict.fromkeys(name for row in rows for name in row.times))
    if not names:
        return ""
    compared = [
        (a, b)
        for a, b in (
            ("fused", "eager"),
            ("fused", "jax-scan"),
            ("layers-graph", "graph"),
            ("gdext", BASELINE["optimizer"]),
        )
        if a in names and b in names
    ]
    if "torch" in names:
        compared.append(("gdext", "torch"))
    head = ["", "limit", *map(label, names)]
    head += [f"{label(a)} / {label(b)}, speed" for a, b in compared]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for row in rows:
        fastest = min(row.times, key=lambda name: spread(row.times[name]).median, default="")
        cells = [row_name(row), microseconds(floor(row).seconds)]
        cells += [_cell(row, name, spreads, name == fastest) for name in names]
        for a, b in compared:
            both = a in row.times and b in row.times
            cells.append(f"{speed(row, a, b):.2f}x" if both else "")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def row_name(row: Row) -> str:
    network = find(row.group)
    if row.section not in ("steps", "epoch") or network is None:
        return row.label
    marks = ["MNIST"] * (network.input == "mnist")
    marks += [network.precision] * (network.precision != "float32")
    sizes = "-".join(map(str, network.sizes))
    return ", ".join([sizes, *marks, f"batch {row.batch}"])


def _cell(row: Row, name: str, spreads: bool, fastest: bool) -> str:
    if name not in row.times:
        return ""
    low, median, high = map(microseconds, spread(row.times[name]))
    text = f"**{median}**" if fastest else median
    return f"{text} ({low} to {high})" if spreads else text


def disturbances(results: dict[str, Any]) -> list[str]:
    rows = [Row(**row) for row in results["rows"]]
    names = [row_name(row) for row in rows if disturbed(row)]
    if not names:
        return []
    return [
        f"Something else was running in {len(names)} of {len(rows)} rows (the machine's own limit "
        f"varied by more than {QUIET - 1:.0%} between quartiles): {'; '.join(names)}."
    ]


def summary(results: dict[str, Any]) -> list[str]:
    """Memory and time to 98%, a sentence each."""
    parts = [f"{memory_text(row)}." for row in results["memory"] if row["batch"] == 512]
    parts += accuracy_summary(results)
    return [part[0].upper() + part[1:] for part in parts]


def accuracy_summary(results: dict[str, Any]) -> list[str]:
    runs = results["accuracy"]
    who = dict.fromkeys(run["contestant"] for run in runs)
    texts = "; ".join(seeds_text(runs, contestant) for contestant in who)
    return [f"Trained to 98% test accuracy on MNIST: {texts}."] if texts else []


def _has_steps(results: dict[str, Any]) -> bool:
    return any(row["section"] == "steps" for row in results["rows"])


def microseconds(seconds: float) -> str:
    us = 1e6 * seconds
    return f"{us:,.0f}" if us >= 1000 else f"{us:.{1 if us >= 10 else 2}f}"


def threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def binary(size: int) -> str:
    for unit, bytes in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= bytes:
            return f"{size / bytes:g} {unit}"
    return f"{size} B"
