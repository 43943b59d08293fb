"""The benchmark's command, tables and arithmetic. How well it measures no test can say."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from planted_benchmark import EFFORT, TINY, planted_results, planted_row

import gdext.optim
from gdext.benchmark import cli, contestants, machine, optimizer, results, rounds, tables
from gdext.benchmark.networks import NETWORKS
from gdext.benchmark.results import Row

ROOT = Path(__file__).resolve().parent.parent


def test_floor_share_and_speed():
    row = planted_row()
    assert results.floor(row) == (1.5e-5, "arithmetic")
    assert results.share_of_limit(row, "fused") == pytest.approx(0.5)
    assert results.share_of_limit(row, "eager") == pytest.approx(0.05)
    assert results.speed(row, "fused", "eager") == pytest.approx(10)
    assert results.speed(row, "jax-scan", "fused") == pytest.approx(0.5)
    row.limits["traffic"] = [2e-5]
    assert results.floor(row) == (2e-5, "traffic")


def test_spread_is_median_and_quartiles():
    assert results.spread([5, 1, 4, 2, 3]) == (2, 3, 4)
    assert results.spread([7]) == (7, 7, 7)


def test_a_busy_machine_is_noticed():
    row = planted_row()
    assert not results.disturbed(row)
    row.limits["arithmetic"] = [1e-5, 1e-5, 2e-5, 3e-5]
    assert results.disturbed(row)
    assert "busy with something else: its limit was 10.0 to 22.5" in tables.row_text(row)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The command made small: seconds, not minutes, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "use_cores", lambda count: None)
    monkeypatch.setattr(rounds, "QUICK", EFFORT)
    monkeypatch.setitem(NETWORKS, "8-64-64-4", TINY)
    monkeypatch.setattr(optimizer, "LISTS", [(2, 3)])


QUICK = ("--quick", "--sections", "steps", "optimizer", "--networks", "8-64-64-4", "--contestants",
         "fused", "eager", "jax-scan", "--batches", "2", "3")  # fmt: skip


def test_quick_run(tiny, capsys):
    Path("README.md").write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    assert cli.main([*QUICK, "--out", "o"]) == 0
    printed = capsys.readouterr().out
    assert "== steps" in printed and "gdext fused" in printed and "us" in printed
    content = json.loads(Path("o/benchmark.json").read_text())
    assert set(content) == {
        "date", "command", "device", "machine", "versions", "threads", "effort", "limits", "rows",
        "memory", "accuracy", "notes",
    }  # fmt: skip
    assert content["command"].startswith("scripts/benchmark.py --quick --sections steps")
    assert content["machine"]["cores"] == machine.cores()
    assert {"gdext", "torch", "jax", "python", "compiler"} <= set(content["versions"])
    rows = [Row(**row) for row in content["rows"]]
    assert [row.batch for row in rows] == [2, 3, None, None]
    assert all(len(times) == 3 for row in rows for times in row.times.values())
    assert {"fused", "eager"} <= set(rows[0].times)
    report = Path("o/benchmark.md").read_text()
    assert tables.report(content) == report
    assert "## Training steps" in report and "2 x 3, momentum 0.9" in report
    if find_spec("matplotlib"):
        assert Path("o/benchmark.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in Path("o/benchmark.svg").read_text()


@pytest.mark.skipif(
    torch.__version__ < (2, 14),
    reason="PyTorch 2.13's SGD(fused=True), torch eager's, steps elsewhere in bfloat16 on the CPU",
)
def test_a_network_in_bfloat16(tiny):
    asked = ["--quick", "--sections", "steps", "--networks", "8-64-64-4:bf16", "--batches", "2"]
    assert cli.main([*asked, "--contestants", "fused", "eager", "--out", "o"]) == 0
    [row] = [Row(**row) for row in json.loads(Path("o/benchmark.json").read_text())["rows"]]
    assert row.precision == "bf16" and set(row.times) == {"fused", "eager"}
    assert row.group.endswith(":bf16") and row.label.endswith(", bf16, batch 2")
    assert "float32 (where a row says no other)" in Path("o/benchmark.md").read_text()


@pytest.mark.parametrize(
    "error", [RuntimeError("can't allocate memory:\nso many bytes"), MemoryError()]
)
def test_a_section_that_fails_is_said_and_the_others_go_on(tiny, monkeypatch, capsys, error):
    def failing(effort, device):
        yield planted_row(section="ops")
        raise error

    monkeypatch.setattr(cli.ops, "run", failing)
    assert cli.main(["--quick", "--sections", "ops", "optimizer", "--out", "o"]) == 3
    content = json.loads(Path("o/benchmark.json").read_text())
    reason = " ".join(str(error).split()) or "MemoryError"
    assert content["notes"] == [f"ops: ended early: {reason}"]
    assert [row["section"] for row in content["rows"]] == ["ops", "optimizer", "optimizer"]
    said = [line for line in capsys.readouterr().err.splitlines() if "benchmark.py" in line]
    assert said == [f"benchmark.py: error: ops: ended early: {reason}"]


def test_a_section_that_cannot_be_measured_is_no_fault(tiny, monkeypatch):
    def unavailable(effort, device):
        raise rounds.Unavailable("no such thing here")
        yield

    monkeypatch.setattr(cli.ops, "run", unavailable)
    assert cli.main(["--quick", "--sections", "ops", "--out", "o"]) == 0
    assert json.loads(Path("o/benchmark.json").read_text())["notes"] == ["ops: no such thing here"]


def climbing(case):
    return contestants._loop(case, "torch", maximize=True)


@pytest.mark.parametrize(("name", "code"), [("layers", 3), ("fused", 3), ("compile", 0)])
def test_other_work_is_a_fault_where_it_is_of_gdext(tiny, monkeypatch, capsys, name, code):
    monkeypatch.setitem(contestants.HERE, name, climbing)
    asked = ["--quick", "--sections", "steps", "--networks", "8-64-64-4", "--batches", "2"]
    assert cli.main([*asked, "--contestants", name, "eager", "--out", "o"]) == code
    content = json.loads(Path("o/benchmark.json").read_text())
    [row] = [Row(**row) for row in content["rows"]]
    assert set(row.times) == {"eager"} and row.other_work == [name]
    said = [line for line in capsys.readouterr().err.splitlines() if "benchmark.py" in line]
    if code == 0:
        assert not said and not content["notes"]
    else:
        [note] = content["notes"]
        assert f"batch 2: {tables.label(name)} does other work than torch eager: after" in note
        assert said == [f"benchmark.py: error: {note}"]


def test_an_update_that_does_other_work_is_a_fault(tiny, monkeypatch):
    sgd = gdext.optim.SGD
    monkeypatch.setattr(gdext.optim, "SGD", lambda params, **own: sgd(params, **{**own, "lr": 1.0}))
    assert cli.main(["--quick", "--sections", "optimizer", "--out", "o"]) == 3
    notes = json.loads(Path("o/benchmark.json").read_text())["notes"]
    assert notes[0] == (
        "optimizer: 2 x 3, momentum 0: gdext ends at other parameters than torch fused"
    )


def test_a_contestant_that_cannot_take_part_is_no_fault(tiny, monkeypatch):
    def refusing(case):
        raise rounds.Unavailable("not here")

    monkeypatch.setitem(contestants.HERE, "layers", refusing)
    asked = ["--quick", "--sections", "steps", "--networks", "8-64-64-4", "--batches", "2"]
    assert cli.main([*asked, "--contestants", "layers", "jax-jit", "eager", "--out", "o"]) == 0


def test_readme_table():
    block = tables.readme_block(planted_results(planted_row()), "docs/here")
    lines = block.splitlines()
    assert lines[0].startswith("Measured on 2026-01-02 with 2 threads on A Processor (avx2)")
    assert (
        "|  | limit | gdext fused | torch eager | JAX scan | gdext fused / torch eager, speed "
        "| gdext fused / JAX scan, speed |"
    ) in lines
    assert "| 8-64-64-4, batch 32 | 15.0 | **30.0** | 300.0 | 60.0 | 10.00x | 2.00x |" in lines
    assert "(docs/here/benchmark.svg)" in block and "(docs/here/benchmark.md)" in block
    assert "Peak memory of n, batch 512: gdext fused 5.0 MB." in lines
    accuracy = (
        "Trained to 98% test accuracy on MNIST: gdext fused in 3 of 4 seeds, after 2.00 s (median; "
        "mean 2.00, standard deviation 1.00, quartiles 1.50 to 2.50, longest 3.00)."
    )
    assert accuracy in lines
    report = tables.report(planted_results(planted_row())).splitlines()
    assert accuracy in report
    missed = "- 98% on MNIST, gdext fused, seed 3: 4.00 s of training to 97.00%, which misses it"
    assert missed in report


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ([], "torch eager in 0 of 2 seeds"),
        ([1], "torch eager in 1 of 2 seeds, after 3.00 s (median; mean 3.00, quartiles "
         "3.00 to 3.00, longest 3.00)"),
    ],
)  # fmt: skip
def test_few_seeds(reached, expected):
    runs = [{"contestant": "eager", "seconds": 3.0, "reached": s in reached} for s in range(2)]
    assert tables.seeds_text(runs, "eager") == expected


def test_readme_is_rewritten_between_its_markers(tmp_path):
    readme = tmp_path / "README.md"
    found, folder = planted_results(planted_row()), tmp_path / "docs"
    readme.write_text("before\n")
    with pytest.raises(ValueError, match="both are not there"):
        tables.rewrite_readme(readme, found, folder)
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.rewrite_readme(readme, found, folder)
    once = readme.read_text()
    assert once.startswith("before\n") and once.endswith(f"{tables.END}\nafter\n")
    assert "old" not in once and "(docs/benchmark.md)" in once
    tables.rewrite_readme(readme, found, folder)
    assert readme.read_text() == once


def test_readme_option(tiny):
    Path("README.md").write_text(f"{tables.BEGIN}\n{tables.END}\n")
    Path("o").mkdir()
    Path("o/benchmark.json").write_text(json.dumps(planted_results(planted_row())))
    assert cli.main(["--readme", "o/benchmark.json"]) == 0
    assert ", batch 32 | 15.0 | **30.0** |" in Path("README.md").read_text()


PLACES = {
    "docs/benchmarks": (tables.BEGIN, tables.END),
    "docs/benchmarks/cuda": (tables.BEGIN_CUDA, tables.END_CUDA),
}


def check_committed(root, place="docs/benchmarks"):
    first, last = PLACES[place]
    _, begin, rest = (root / "README.md").read_text().partition(first)
    block, end, _ = rest.partition(last)
    assert begin and end
    folder = root / place
    if not block.strip() and not folder.exists():
        pytest.skip("no result beside these tests, and none in the README")
    assert (folder / "benchmark.json").exists(), "numbers in the README without their result"
    content = json.loads((folder / "benchmark.json").read_text())
    assert (folder / "benchmark.md").read_text() == tables.report(content)
    assert block.strip() == tables.readme_block(content, place)


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the README is not here")
@pytest.mark.parametrize("place", PLACES)
def test_the_committed_tables_are_made_from_the_committed_result(place):
    check_committed(ROOT, place)


def test_numbers_without_their_result_are_found_out(tmp_path):
    readme, folder = tmp_path / "README.md", tmp_path / "docs" / "benchmarks"
    readme.write_text(f"{tables.BEGIN}\n{tables.END}\n")
    with pytest.raises(pytest.skip.Exception):
        check_committed(tmp_path)
    readme.write_text(f"{tables.BEGIN}\n| 1.0 |\n{tables.END}\n")
    with pytest.raises(AssertionError, match="without their result"):
        check_committed(tmp_path)
    folder.mkdir(parents=True)
    content = planted_results(planted_row())
    (folder / "benchmark.json").write_text(json.dumps(content))
    (folder / "benchmark.md").write_text(tables.report(content))
    with pytest.raises(AssertionError):
        check_committed(tmp_path)
    tables.rewrite_readme(readme, content, folder)
    check_committed(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sections", "nothing"], "--sections: invalid choice: 'nothing'"),
        (["--networks", "1-2"], "--networks: invalid choice: '1-2'"),
        (["--networks", "8-64-64-4:fp8"], "--networks: invalid choice: '8-64-64-4:fp8'"),
        (
            ["--networks", "32-64-64-8:tf32"],
            "--networks 32-64-64-8:tf32: tf32 is for --device cuda",
        ),
        (["--sections", "targets"], "--sections targets: they are for --device cuda"),
        (["--contestants", "me"], "--contestants: invalid choice: 'me'"),
        (["--batches", "0"], "--batches: 0: wanted an integer from 1"),
        (["--batches", "x"], "--batches: invalid integer value: 'x'"),
        (["--rounds", "0"], "--rounds: 0: wanted an integer from 1"),
        (["--seeds", "0"], "--seeds: 0: wanted an integer from 1"),
        (["--threads", "0"], "--threads: 0: wanted an integer from 1"),
        (["--threads", str(os.cpu_count() + 1)], "wanted an integer from 1 to"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["--jax-python", "nowhere"], "--jax-python: nowhere cannot be started: No such file"),
        (["--out", "file"], "File exists: 'file'"),
        (["--readme", "nowhere.json"], "No such file or directory: 'nowhere.json'"),
        (["--readme", "file"], "file: wanted a result of this benchmark"),
        (["--readme", "empty.json"], "empty.json: wanted a result of this benchmark"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_bad_arguments(tiny, arguments, message, capsys):
    Path("file").write_text("")
    Path("empty.json").write_text("{}")
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark.py: error: ") and error.count("\n") == 1
    assert message in error
