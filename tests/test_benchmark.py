"""The benchmark: its arithmetic, its tables, its command. How well it measures no test can say."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gdext import data
from gdext.benchmark import (
    accuracy,
    cli,
    contestants,
    limits,
    machine,
    memory,
    networks,
    ops,
    optimizer,
    results,
    rounds,
    steps,
    tables,
)
from gdext.benchmark.contestants import Unavailable
from gdext.benchmark.jax_peer import JaxPeer
from gdext.benchmark.networks import NETWORKS, Network
from gdext.benchmark.process import in_new_process
from gdext.benchmark.results import Row

ROOT = Path(__file__).resolve().parent.parent
TINY = Network((6, 5, 5, 3), "relu", "cross_entropy", batches=(2, 3))
TINY_MSE = Network((6, 5, 3), "tanh", "mse", batches=(2,))
EFFORT = rounds.Effort(rounds=3, turn=0.0, limit=0.0, flops=2000, samples=4)


def planted_row(**changes) -> Row:
    values = {
        "section": "steps",
        "group": "8-64-64-4",
        "label": "8-64-64-4, tanh, MSE, dense input, batch 32",
        "flops": 1e6,
        "bytes": 1e5,
        "batch": 32,
        "times": {"fused": [2e-5, 4e-5, 3e-5], "eager": [3e-4, 3.3e-4, 2e-4], "jax-scan": [6e-5]},
        "limits": {"arithmetic": [1.5e-5, 1.4e-5, 1.6e-5], "traffic": [1e-6, 2e-6, 3e-6]},
        "notes": {"compile": "torch.compile: no compiler"},
    }
    return Row(**{**values, **changes})


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


@pytest.mark.parametrize("network", [*NETWORKS.values(), TINY, TINY_MSE], ids=lambda n: n.name)
def test_flops_are_those_torch_counts(network):
    case = networks.make_case(network, 2, 2)
    contestant = contestants.eager(case)
    with FlopCounterMode(display=False) as counter:
        contestant.work()
    assert network.flops(2) * case.steps == counter.get_total_flops()


def test_parameters_and_bytes():
    count = sum(p.numel() for p in networks.make_case(TINY, 2, 1).initial)
    assert TINY.parameters == count == 6 * 5 + 5 + 5 * 5 + 5 + 5 * 3 + 3
    assert TINY.working_set == 4 * count
    assert TINY.bytes(3) == 4 * (2 * count + 3 * 6)


def test_case_has_as_many_steps_as_asked_for():
    case = networks.make_case(TINY, 3, 4)
    assert [(x.shape, y.shape) for x, y in case.batches] == [((3, 6), (3,))] * 4


@pytest.mark.parametrize(
    ("flops", "samples", "expected"),
    [(5.5, 2, 5), (5.5, 21, 10), (0, 0, 1), (1e9, 0, 1000)],
)
def test_steps_of_a_turn(flops, samples, expected):
    effort = rounds.Effort(3, 0.0, 0.0, flops=flops * TINY.flops(2), samples=samples)
    assert steps.steps_of_turn(TINY, 2, effort) == expected


def test_made_up_digits_are_as_sparse_as_mnist():
    pixels, labels = networks.made_up_digits(2000)
    assert (pixels != 0).float().mean() == pytest.approx(0.19, abs=0.01)
    assert pixels.aminmax() == (0, pytest.approx(1, abs=1e-3))
    assert pixels.view(-1, 28, 28)[:, :4].abs().max() == 0
    assert set(labels.tolist()) == set(range(10))


@pytest.fixture
def rates(monkeypatch):
    """A machine of 10 GFLOP/s and 1 GB/s."""
    monkeypatch.setattr(torch.ops.gdext, "_fma_peak", lambda dtype, seconds: 1e10)
    monkeypatch.setattr(torch.ops.gdext, "_bandwidth", lambda size, seconds: 1e9)


def test_contestants_take_turns_and_repeats_are_divided_out(rates):
    calls = []

    def fake(name, seconds):
        def timer(repeats):
            calls.append((name, repeats))
            return repeats * seconds

        return timer

    effort = rounds.Effort(rounds=4, turn=0.01, limit=0.0, flops=0, samples=0)
    row = planted_row(times={}, limits={})
    rounds.measure(row, {"fused": fake("fused", 1e-3), "eager": fake("eager", 0.1)}, 4096, effort)
    assert row.times == {"fused": [pytest.approx(1e-3)] * 4, "eager": [pytest.approx(0.1)] * 4}
    assert row.limits == {
        "arithmetic": [pytest.approx(1e-4)] * 4,  # 1e6 operations
        "traffic": [pytest.approx(1e-4)] * 4,  # 1e5 bytes
    }
    assert calls[:3] == [("fused", 1), ("fused", 1), ("eager", 1)]  # how many fill a turn
    turns = calls[3:]
    assert sorted(turns) == [("eager", 1)] * 4 + [("fused", 10)] * 4
    assert all(
        {a[0], b[0]} == {"fused", "eager"} for a, b in zip(turns[::2], turns[1::2], strict=True)
    )


def test_timer_counts_the_work_it_is_asked_for():
    done = []
    seconds = rounds.timer(lambda: done.append(time.sleep(0.002)))(5)
    assert len(done) == 5
    assert seconds >= 0.01


@pytest.mark.parametrize("network", [TINY, TINY_MSE], ids=lambda n: n.name)
@pytest.mark.parametrize("name", contestants.HERE)
def test_every_contestant_does_the_same_work(name, network):
    case = networks.make_case(network, 2, 8)
    reference = contestants.eager(case).way()
    contestant = contestants.HERE[name](case)
    contestant.work()  # a turn starts from the initial parameters wherever the last one ended
    steps.check_way(contestant.way(), reference)
    assert min(reference) > 0
    assert contestant.time(2) > 0


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize("network", [TINY, TINY_MSE], ids=lambda n: n.name)
@pytest.mark.parametrize("name", ["jax-jit", "jax-scan"])
def test_jax_does_the_same_work(name, network):
    case = networks.make_case(network, 2, 8)
    with JaxPeer(sys.executable) as jax:
        assert set(jax.versions) == {"jax", "jaxlib", "python"}
        timer, way = jax.build(name, case)
        steps.check_way(way, contestants.eager(case).way())
        assert timer(2) > 0


def test_other_work_is_found_out(monkeypatch):
    case = networks.make_case(TINY, 2, 8)
    reference = contestants.eager(case).way()
    lazy = contestants.Contestant(case, [p.clone() for p in case.initial], lambda: None)
    with pytest.raises(Unavailable, match="does other work than torch eager: parameter 0 moved"):
        steps.check_way(lazy.way(), reference)
    with pytest.raises(Unavailable, match="other work"):
        steps.check_way([float("nan")] * len(reference), reference)
    monkeypatch.setattr(contestants, "LEARNING_RATE", 1.1 * networks.LEARNING_RATE)
    with pytest.raises(Unavailable, match="other work"):
        steps.check_way(contestants.layers(case).way(), reference)


def test_a_contestant_that_cannot_take_part_is_a_note(rates):
    [row] = steps.run([TINY], [2], ["eager", "jax-jit"], Unavailable("no jax here"), EFFORT)
    assert list(row.times) == ["eager"]
    assert row.notes == {"jax-jit": "no jax here"}
    assert "JAX jit              no jax here" in tables.row_text(row)


def test_interpreter_without_jax(tmp_path):
    with pytest.raises(Unavailable, match="cannot be started: No such file"):
        JaxPeer(str(tmp_path / "python"))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\n")
    silent.chmod(0o755)
    with pytest.raises(Unavailable, match="JAX's process ended"):
        JaxPeer(str(silent))
    isolated = tmp_path / "isolated"
    isolated.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    isolated.chmod(0o755)
    with pytest.raises(Unavailable, match="JAX: No module named 'jax'"):
        JaxPeer(str(isolated))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fma_peak_and_bandwidth(dtype):
    assert 1e6 < torch.ops.gdext._fma_peak(dtype, 0.0) < 1e15
    assert 1e6 < torch.ops.gdext._bandwidth(1 << 16, 0.0) < 1e15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: op._fma_peak(torch.int32, 0.0), "dtype: wanted float32 or float64, got int32"),
        (lambda op: op._fma_peak(torch.float32, -1.0), "seconds: wanted a finite number >= 0"),
        (lambda op: op._bandwidth(1 << 16, float("nan")), "seconds: wanted a finite number >= 0"),
        (lambda op: op._bandwidth(1023, 0.0), "bytes: wanted a number from 1024 to .*, got 1023"),
    ],
)
def test_peak_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ops.gdext)


def test_limits_of_each_instruction_set(monkeypatch):
    monkeypatch.setattr(limits, "SIZES", [2**14])
    monkeypatch.setattr(limits, "COPY_BYTES", 2**16)
    found = limits.run(0.0, 1)
    sets = {peak["isa"] for peak in found["fma"]}
    assert {found["isa"], "scalar"} <= sets
    assert len(found["fma"]) == 2 * len(sets)
    assert "update of 16 KiB: " in tables.limits_text(found)


def test_ops_and_optimizer_sections(monkeypatch, rates):
    monkeypatch.setattr(ops, "PRODUCTS", [(3, 4, 5)])
    monkeypatch.setattr(ops, "LAYERS", [(2, 3, 4)])
    monkeypatch.setattr(ops, "WIDE_OUTPUT", (2, 3, 4))
    monkeypatch.setattr(ops, "CROSS_ENTROPIES", [(2, 3)])
    monkeypatch.setattr(ops, "ERRORS", [(2, 3)])
    found = {row.label: row for row in ops.run(EFFORT)}
    product = found["dz w, B 3, I 4, O 5"]
    assert (product.flops, product.bytes) == (2 * 3 * 4 * 5, 4 * (12 + 20 + 15))
    assert len(found) == 3 + 2 * (1 + len(ops.ACTIVATIONS) - 1 + 1 + 1)
    assert all(min(row.times["gdext"] + row.times["torch"]) > 0 for row in found.values())

    monkeypatch.setattr(optimizer, "LISTS", [(2, 3), (1, 1000)])
    rows = list(optimizer.run(EFFORT, most_elements=999))
    assert [(row.label, row.bytes) for row in rows] == [
        ("2 x 3, momentum 0", 4 * 3 * 6),
        ("2 x 3, momentum 0.9", 4 * 5 * 6),
    ]


def test_ops_are_compared_with_their_own_twins():
    for make in (ops._products, ops._layers, ops._activations, ops._losses):
        for op in make():
            ours, theirs = op.ours(), op.theirs()
            if isinstance(ours, torch.Tensor):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3, msg=op.label)


def test_memory_is_at_least_that_of_parameters_and_gradients():
    try:
        size = in_new_process(memory.peak, "eager", "784-512-512-10", 1, 1, **memory.ENVIRONMENT)
    except Unavailable as error:
        pytest.skip(str(error))
    both = 2 * NETWORKS["784-512-512-10"].working_set
    assert both < size < 3 * both


def test_accuracy_takes_turns_and_adds_up(monkeypatch):
    def trained(function, engine, seed, threads):
        return [{"seconds": 1.5, "test_accuracy": 0.9}, {"seconds": 1.0, "test_accuracy": 0.981}]

    monkeypatch.setattr(accuracy, "in_new_process", trained)
    runs = list(accuracy.run(["fused", "eager", "layers"], seeds=2, threads=1))
    assert [(run["contestant"], run["seed"]) for run in runs] == [
        ("fused", 0), ("eager", 0), ("fused", 1), ("eager", 1)
    ]  # fmt: skip
    assert runs[0]["seconds"] == 2.5 and runs[0]["accuracy"] == 0.981


def test_accuracy_says_why_the_trainer_refused():
    with pytest.raises(Unavailable, match=r"train_mnist\.py: error: "):
        accuracy.train("nothing", 0, 1)


def test_fewer_cores_hold_for_child_processes():
    assert in_new_process(_cores_after_using_one) == (1, 1, 1)


def _cores_after_using_one() -> tuple[int, int, int]:
    machine.use_cores(1)
    return machine.cores(), torch.get_num_threads(), in_new_process(machine.cores)


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
        "date", "command", "machine", "versions", "threads", "effort", "limits", "rows", "memory",
        "accuracy", "notes",
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


def planted_results(*rows: Row) -> dict:
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "command": "scripts/benchmark.py",
        "machine": {"cpu": "A Processor", "cores": 2},
        "versions": {"gdext": "1", "torch": "2", "jax": {"jax": "3"}, "python": "4",
                     "compiler": "GCC 5", "instruction_set": "avx2"},
        "threads": 2,
        "effort": {"rounds": 3},
        "limits": {},
        "rows": [vars(row) for row in rows],
        "memory": [
            {"network": "n", "batch": 512, "bytes": {"fused": [5e6, 9e6, 4e6]}, "notes": {}}
        ],
        "accuracy": [{"contestant": "fused", "seed": s, "seconds": 1.0 + s, "accuracy": 0.98}
                     for s in range(3)],
        "notes": ["a note"],
    }  # fmt: skip


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
    assert any("gdext fused 2.00 s (quartiles 1.50 to 2.50, longest 3.00, 3 seeds)" in line
               for line in lines)  # fmt: skip


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


def test_the_committed_tables_are_made_from_the_committed_result():
    folder = ROOT / "docs" / "benchmarks"
    if not (folder / "benchmark.json").exists():
        pytest.skip("no result beside these tests")
    content = json.loads((folder / "benchmark.json").read_text())
    assert (folder / "benchmark.md").read_text() == tables.report(content)
    _, _, rest = (ROOT / "README.md").read_text().partition(f"{tables.BEGIN}\n")
    block, _, _ = rest.partition(f"\n{tables.END}")
    assert block == tables.readme_block(content, "docs/benchmarks")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sections", "nothing"], "--sections: invalid choice: 'nothing'"),
        (["--networks", "1-2"], "--networks: invalid choice: '1-2'"),
        (["--contestants", "me"], "--contestants: invalid choice: 'me'"),
        (["--batches", "0"], "--batches: 0: wanted an integer from 1"),
        (["--batches", "x"], "--batches: invalid integer value: 'x'"),
        (["--rounds", "0"], "--rounds: 0: wanted an integer from 1"),
        (["--seeds", "0"], "--seeds: 0: wanted an integer from 1"),
        (["--threads", "0"], "--threads: 0: wanted an integer from 1"),
        (["--threads", str(os.cpu_count() + 1)], "wanted an integer from 1 to"),
        (["--device", "cuda"], "--device: invalid choice: 'cuda'"),
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


def test_mnist_that_is_not_there_is_said(monkeypatch, capsys):
    def missing(**options):
        raise data.DataError("MNIST: no files")

    monkeypatch.setattr(data, "mnist", missing)
    networks.mnist.cache_clear()
    try:
        pixels, _, source = networks.mnist()
    finally:
        networks.mnist.cache_clear()
    assert "made-up pixels stand in: MNIST: no files" in capsys.readouterr().err
    assert pixels.shape == (4096, 784) and "made-up" in source
