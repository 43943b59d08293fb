"""What a fault is, what must find it, and how many of them share a program."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# For the compiler, with the sources that `plant` writes.
FAULT_FLAGS = ["-include", str(Path(__file__).with_name("planted.h"))]


@dataclass(frozen=True)
class Fault:
    """`new` instead of `old` in `file`.

    `old` occurs there once; where only a part of it is replaced, that stands between <| and |>.
    Either expressions, or statements (they end in a semicolon) that declare nothing.
    """

    file: str
    old: str
    new: str

    def parts(self) -> tuple[str, str, str]:
        """What is replaced, between what lies before it and after it."""
        marked = re.fullmatch(r"(.*)<\|(.*)\|>(.*)", self.old, re.DOTALL)
        return marked.group(1, 2, 3) if marked else ("", self.old, "")


@dataclass(frozen=True)
class OpFault(Fault):
    """In csrc. `op` must fail on `dtype`, saying `says`. `seed`: of a schedule that shows it."""

    op: str
    says: str = "FAIL {op} "
    seed: int = 1
    dtype: str = "f32"


@dataclass(frozen=True)
class PrimitiveFault(Fault):
    """In primitives/. One of its tests must fail, saying `says`, whatever the seed.

    Where the schedule decides whether the numbers or the emulation's own checks show it first,
    `says` is what both name.
    """

    says: str


def plant(faults: Sequence[Fault], tree: Path, folder: Path) -> Path:
    """A copy of `tree` in `folder`, with all of the faults, of which one is on at a time.

    Its number, from 1, is in the environment then: `switch_on`. So a program is compiled once for
    all of them, and not for each.
    """
    copy = folder / tree.name
    shutil.copytree(tree, copy)
    in_file: defaultdict[str, list[tuple[int, Fault]]] = defaultdict(list)
    for number, fault in enumerate(faults, 1):
        in_file[fault.file].append((number, fault))
    for file, numbered in in_file.items():
        path = copy / file
        path.write_text(_with_switches(path.read_text(), numbered))
    return copy


def switch_on(fault: Fault, faults: Sequence[Fault]) -> dict[str, str]:
    """The environment in which a program with `faults` has this one."""
    return {"PLANTED": str(faults.index(fault) + 1)}


def _with_switches(text: str, numbered: list[tuple[int, Fault]]) -> str:
    places: defaultdict[tuple[int, int], list[tuple[int, Fault]]] = defaultdict(list)
    for number, fault in numbered:
        before, old, after = fault.parts()
        whole = before + old + after
        assert text.count(whole) == 1, f"not once in {fault.file}: {whole}"
        begin = text.index(whole) + len(before)
        places[begin, begin + len(old)].append((number, fault))
    result, done = "", 0
    for (begin, end), here in sorted(places.items(), key=lambda place: place[0]):
        assert done <= begin, f"two faults overlap in {here[0][1].file}: {text[begin:end]}"
        result += text[done:begin] + _switch(text[begin:end], here)
        done = end
    return result + text[done:]


def _switch(old: str, here: list[tuple[int, Fault]]) -> str:
    """On as many lines as `old`: barriers are known by theirs."""
    result = ""
    if all((old or fault.new).endswith(";") for _, fault in here):
        for number, fault in here:
            result += f"if (faults::planted({number})) {{ {fault.new} }} else "
        return f"{result}{{ {old} }}"
    for number, fault in here:
        result += f"faults::planted({number}) ? ({fault.new}) : "
    return f"({result}({old}))"
