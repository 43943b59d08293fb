"""The command scripts/benchmark.py: options in, tables on the terminal, JSON, Markdown, picture."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from gdext.benchmark import (
    accuracy,
    gpu,
    limits,
    machine,
    memory,
    networks,
    ops,
    optimizer,
    plot,
    rounds,
    steps,
    tables,
    targets,
)
from gdext.benchmark.contestants import LABELS, OURS, of_device
from gdext.benchmark.jax_peer import VARIANTS, JaxPeer
from gdext.benchmark.networks import FEATURED, NETWORKS, Network
from gdext.benchmark.results import Row
from gdext.benchmark.rounds import Unavailable
from gdext.training.output import write_atomically

DEFAULT_SECTIONS = ("limits", "steps", "ops", "optimizer", "memory", "accuracy")
SECTIONS = (*DEFAULT_SECTIONS, "targets")
QUICK_SECTIONS = ("limits", "steps", "ops", "optimizer")
QUICK_BATCHES = [1, 32, 512]
JSON = "benchmark.json"

DESCRIPTION = """\
Times gdext beside PyTorch and JAX on the same work, all of them taking turns, and compares each
with what this machine can do at most. Writes benchmark.json, benchmark.md and a picture."""

EPILOG = """\
exit codes: 0 measured, whatever came out; 2 something asked for cannot be done; 3 an error ended a
section early, or gdext did other work than it was compared on: the rest is measured and saved; 130
stopped by Ctrl-C."""
FAULTY = 3

Results = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark on `arguments` (default: the process's own) and returns its exit code,
    which `--help` explains."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        chosen = _parse(given)
        if chosen.readme is not None:
            file = Path(chosen.readme)
            results = _load(file)
            plot.draw(results, file.parent)
            tables.rewrite_readme(Path("README.md"), results, file.parent)
        else:
            return _run(chosen, given)
    except (UsageError, OSError, ValueError) as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmark.py: interrupted; what was measured is kept", file=sys.stderr)
        return 130
    return 0


class UsageError(Exception):
    """What was asked for cannot be done; the message is one line for stderr."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="benchmark.py", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False
    )

    def several(name: str, choices: Sequence[str], help: str) -> None:
        parser.add_argument(
            f"--{name}", nargs="+", choices=choices, metavar="NAME",
            help=f"{help}, of: {', '.join(choices)}",
        )  # fmt: skip

    several("sections", SECTIONS, "what to measure; unless given all but targets (with --quick "
            "neither memory nor accuracy); beside targets, accuracy is of gdext alone")  # fmt: skip
    several("contestants", [*LABELS], "who trains; all unless given")
    cores = machine.cores()
    add = parser.add_argument
    add("--networks", nargs="+", type=_network, metavar="NAME",
        help=f"of the section steps; all unless given, of: {', '.join(NETWORKS)}; each also in "
        "bfloat16, as NAME:bf16, and on a GPU in tf32, as NAME:tf32")  # fmt: skip
    add("--batches", nargs="+", type=_integer(1, 2**20), metavar="N",
        help="batch sizes of the section steps (default: some for each network)")  # fmt: skip
    add("--rounds", type=_integer(1, 1000), metavar="N",
        help=f"default {rounds.THOROUGH.rounds}, with --quick {rounds.QUICK.rounds}")  # fmt: skip
    add("--seeds", type=_integer(1, 1000), default=10, metavar="N",
        help="training runs of the section accuracy (default 10)")  # fmt: skip
    add("--quick", action="store_true", help="a first look, in two minutes")
    add("--threads", type=_integer(1, cores), default=cores, metavar="N",
        help=f"for every contestant (default: all {cores} cores)")  # fmt: skip
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default cpu)")
    add("--jax-python", metavar="PATH",
        help="the interpreter to run JAX with (default: this one)")  # fmt: skip
    add("--out", default="runs/benchmark", metavar="DIR",
        help="folder for the results (default runs/benchmark)")  # fmt: skip
    add("--readme", metavar="JSON",
        help="measure nothing: draw the picture of this result anew, and rewrite the table in "
        "./README.md from it")  # fmt: skip
    chosen = parser.parse_args(arguments)
    effort = rounds.QUICK if chosen.quick else rounds.THOROUGH
    chosen.effort = replace(effort, rounds=chosen.rounds or effort.rounds)
    on_gpu = chosen.device == "cuda"
    chosen.sections = chosen.sections or (QUICK_SECTIONS if chosen.quick else DEFAULT_SECTIONS)
    if "targets" in chosen.sections and not on_gpu:
        raise UsageError("--sections targets: they are for --device cuda")
    names = networks.of_device(chosen.device, FEATURED if chosen.quick else NETWORKS)
    chosen.networks = chosen.networks or [_network(name) for name in names]
    for network in chosen.networks:
        if network.precision == "tf32" and not on_gpu:
            raise UsageError(f"--networks {network.name}: tf32 is for --device cuda")
    chosen.batches = chosen.batches or (QUICK_BATCHES if chosen.quick else None)
    chosen.contestants = chosen.contestants or of_device(chosen.device)
    return chosen


def _integer(least: int, most: int) -> Any:
    def integer(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text}: wanted an integer from {least} to {most}")
        return value

    return integer


def _network(name: str) -> Network:
    found = networks.find(name)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"invalid choice: {name!r} (choose from {', '.join(NETWORKS)}; each also with :bf16 or "
            ":tf32 after it)"
        )
    return found


def _run(chosen: argparse.Namespace, given: list[str]) -> int:
    """The exit code. Whatever goes wrong in a section is in results["notes"], and is no reason not
    to measure the others."""
    if chosen.device == "cuda" and (reason := gpu.missing()):
        raise UsageError(f"--device cuda: {reason}")
    folder = Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    machine.use_cores(chosen.threads)
    faulty = False
    with ExitStack() as stack:
        jax = _start_jax(chosen, stack)
        results: Results = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": _command(given),
            "device": chosen.device,
            "machine": machine.machine(chosen.device),
            "versions": machine.versions(jax.versions if isinstance(jax, JaxPeer) else None),
            "threads": chosen.threads,
            "effort": asdict(chosen.effort),
            "limits": {},
            "rows": [],
            "memory": [],
            "accuracy": [],
            "notes": [],
        }
        for section in chosen.sections:
            print(f"== {section}", flush=True)
            try:
                _measure(section, chosen, jax, results)
            except Unavailable as error:
                note = f"{section}: {error}"
                print(note, flush=True)
                results["notes"].append(note)
            except (
                RuntimeError,
                MemoryError,
            ) as error:  # of too little memory, say
                reason = " ".join(str(error).split()) or type(error).__name__
                note = f"{section}: ended early: {reason}"
                print(f"benchmark.py: error: {note}", file=sys.stderr)
                results["notes"].append(note)
                faulty = True
            finally:
                _save(results, folder)
    plot.draw(results, folder)
    print("\n".join(tables.disturbances(results)))
    if tables.on_cuda(results):
        print("\n".join(["== targets and results", *targets.text(results)]))
    for row in results["rows"]:
        for fault in _faults(Row(**row)):
            faulty = True
            print(f"benchmark.py: error: {fault}", file=sys.stderr)
    print(f"everything is in {folder}")
    return FAULTY if faulty else 0


def _faults(row: Row) -> list[str]:
    """A refused competitor is one fewer to compare with; gdext refused is a fault of gdext's."""
    refused = [name for name in row.other_work if name in OURS]
    return [
        f"{row.section}: {row.label}: {tables.label(name)} {row.notes[name]}" for name in refused
    ]


def _measure(
    section: str,
    chosen: argparse.Namespace,
    jax: JaxPeer | Unavailable,
    results: Results,
) -> None:
    contestants, effort = chosen.contestants, chosen.effort
    if section == "limits":
        if chosen.device == "cuda":
            results["limits"] = gpu.limits(5 * effort.limit)
        else:
            results["limits"] = limits.run(5 * effort.limit, chosen.threads)
        results["notes"] += results["limits"].pop("notes")
        print(tables.limits_text(results["limits"]), flush=True)
    elif section == "memory":
        for peaks in memory.run(contestants, chosen.threads, chosen.device):
            results["memory"].append(peaks)
            print(tables.memory_text(peaks), flush=True)
    elif section == "accuracy":
        who = targets.OF_ACCURACY if "targets" in chosen.sections else contestants
        for run in accuracy.run(
            [name for name in who if name in contestants],
            chosen.seeds,
            chosen.threads,
            chosen.device,
        ):
            results["accuracy"].append(run)
            _save(results, Path(chosen.out))
            print(tables.accuracy_text(run), flush=True)
    else:
        rows = {
            "steps": lambda: steps.run(
                chosen.networks,
                chosen.batches,
                contestants,
                jax,
                effort,
                chosen.device,
            ),
            "targets": lambda: targets.rows(contestants, jax, effort, chosen.device),
            "ops": lambda: ops.run(effort, chosen.device),
            "optimizer": lambda: optimizer.run(
                effort, 10**7 if chosen.quick and chosen.device == "cpu" else 10**8, chosen.device
            ),
        }[section]
        of_mnist = any(network.input == "mnist" for network in chosen.networks)
        if section == "targets" or (section == "steps" and of_mnist):
            results["notes"].append(f"The MNIST pixels are {networks.mnist().source}.")
        for row in rows():
            results["rows"].append(asdict(row))
            results["notes"] += _faults(row)
            _save(results, Path(chosen.out))  # whatever ends this process
            print(tables.row_text(row), flush=True)


def _start_jax(chosen: argparse.Namespace, stack: ExitStack) -> JaxPeer | Unavailable:
    """The worker, or why there is none: that is an error only where it was asked for by path."""
    if not any(name in VARIANTS for name in chosen.contestants):
        return Unavailable("not asked for")
    try:
        return stack.enter_context(JaxPeer(chosen.jax_python or sys.executable, chosen.device))
    except Unavailable as error:
        if chosen.jax_python is not None:
            raise UsageError(f"--jax-python: {error}") from error
        return error


def _command(given: list[str]) -> str:
    """What was typed, but for where on this machine JAX lives."""
    shown = [
        "PYTHON" if before == "--jax-python" else word
        for before, word in zip(["", *given], given, strict=False)
    ]
    return shlex.join(["scripts/benchmark.py", *shown])


def _save(results: Results, folder: Path) -> None:
    if tables.on_cuda(results):
        results["targets"] = [verdict._asdict() for verdict in targets.verdicts(results)]
    text = json.dumps(results, indent=1)
    write_atomically(folder / JSON, lambda file: file.write(f"{text}\n".encode()))
    report = tables.report(results)
    write_atomically(folder / "benchmark.md", lambda file: file.write(report.encode()))


def _load(file: Path) -> Results:
    try:
        results = json.loads(file.read_text())
        rows = [tables.rows_of(results, section) for section in tables.HEADINGS]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: wanted a result of this benchmark: {error}") from error
    if not any(rows):
        raise ValueError(f"{file}: wanted a result with the section steps, ops or optimizer")
    results_of_benchmark: Results = results
    return results_of_benchmark
