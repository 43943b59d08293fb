"""What the commands share: options, exit codes, the JSON's head, and files written whole."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gdext.benchmark import machine
from gdext.training import options
from gdext.training.options import UsageError, folder, integer_between
from gdext.training.output import write_atomically
from gdext.training.report import optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]


class Parser(options.Parser):
    """Has the options of every command."""

    def __init__(self, program: str, description: str) -> None:
        super().__init__(prog=program, description=description, allow_abbrev=False)
        self.add_argument(
            "--seed", type=integer_between(0, 2**63 - 1), default=0, metavar="N",
            help="of everything drawn at random (default 0)",
        )  # fmt: skip
        self.add_argument(
            "--out", type=folder, default=f"runs/{Path(program).stem}", metavar="DIR",
            help=f"folder for the results (default runs/{Path(program).stem})",
        )  # fmt: skip


def run(
    program: str, command: Callable[[list[str]], object], arguments: Sequence[str] | None
) -> int:
    """``command`` on ``arguments`` (default: the process's own); returns the exit code: 0; 2 after
    one line on stderr where something asked for cannot be done; 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command(given)
    except (UsageError, ImportError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


def head(program: str, given: Sequence[str]) -> Results:
    """When, where and by what command a result was made."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([f"scripts/{program}", *given]),
        "machine": machine.machine(),
        "versions": machine.versions(None),
        "threads": torch.get_num_threads(),
    }


def save(
    out: Path, name: str, results: Results, draw: Mapping[str, Callable[[type[Figure]], Figure]]
) -> None:
    """Writes ``name``.json and, where matplotlib is, each figure as PNG and SVG, into ``out``."""
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    write_atomically(out / f"{name}.json", lambda file: file.write(text.encode()))
    module = optional("matplotlib.figure", "matplotlib", "pictures")
    if module is not None:
        for title, new in draw.items():
            figure = new(module.Figure)
            for kind in ("png", "svg"):
                write = partial(figure.savefig, format=kind, dpi=110)
                write_atomically(out / f"{title}.{kind}", write)
    print(f"everything is in {out}")
