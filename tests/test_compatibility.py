"""docs/compatibility.md: every section has rows, and every row names a test that exists."""

import ast
import json
import re
import statistics
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
SECTIONS = (
    "PyTorch's own test material",
    "Transforms",
    "Precision",
    "Many processes",
    "Life cycle",
    "Libraries on top",
    "Types and documents",
    "Deliberate differences",
)
HEAD = ["what", "result", "test"]


def sections(text):
    """The rows of each section's tables."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        lines = [line.strip() for line in body.splitlines() if line.lstrip().startswith("|")]
        rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        found[title.strip()] = [row for row in rows if set("".join(row)) - set("-: ")]
    return found


@cache
def functions(file):
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def faults(text):
    """What is wrong with the page, a line each."""
    for title, rows in sections(text).items():
        if rows[:1] != [HEAD]:
            yield f"{title}: wanted a table with the columns {HEAD}"
            continue
        body = [row for row in rows if row != HEAD]
        if not body:
            yield f"{title}: no rows"
        for row in body:
            tests = re.findall(r"`(tests/\w+\.py)::(\w+)(?:\[[^`]*\])?`", row[-1])
            if len(row) != 3 or not tests:
                yield f"{title}: {row}: wanted three cells, the last of them with a test"
            for file, name in tests:
                if not (ROOT / file).exists() or name not in functions(file):
                    yield f"{title}: {file}::{name} does not exist"


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not here")
def test_every_row_names_a_test_that_exists():
    text = PAGE.read_text()
    assert tuple(sections(text)) == SECTIONS
    assert list(faults(text)) == []


def times_of_one_sample(result):
    """What the page must say: gdext's time as a multiple of torch's, of each op."""

    def times(row):
        ours, theirs = (statistics.median(row["times"][name]) for name in ("gdext", "torch"))
        what = row["label"].removesuffix(", forward and backward")
        return f"{what.replace(', B 1', '')} {ours / theirs:.2f}"

    return "; ".join(times(row) for row in result["rows"] if row["group"] == "one sample")


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not here")
def test_times_of_one_sample_are_the_benchmark_s():
    result = json.loads((ROOT / "docs" / "benchmarks" / "benchmark.json").read_text())
    wanted = times_of_one_sample(result)
    assert wanted.count(";") >= 6
    assert wanted in PAGE.read_text(), f"wanted in the row of these times: {wanted}"


GOOD = """
## One

| what | result | test |
|---|---|---|
| it | like torch | `tests/test_compatibility.py::test_faults_are_found` |
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("::test_faults_are_found", "::test_that_is_not_there"),
        ("tests/test_compat", "tests/test_incompat"),
        ("`tests/test_compatibility.py::test_faults_are_found`", "none"),
        ("| what |", "| which |"),
        ("| it | like torch |", "| it |"),
        ("| it |", "it |"),
        ("## One", "## Empty\n\n## One"),
    ],
)
def test_faults_are_found(old, new):
    assert list(faults(GOOD)) == []
    assert old in GOOD
    assert len(list(faults(GOOD.replace(old, new)))) == 1
