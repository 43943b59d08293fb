"""scripts/check_gpu.sh, with programs that only write down how they were called in place of Python,
nvcc, nvidia-smi and compute-sanitizer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "check_gpu.sh"

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("timeout") is None,
    reason="bash and timeout (coreutils) are needed",
)

NAMES = [
    "machine", "build", "tests", "memcheck", "racecheck", "initcheck", "synccheck", "targets",
    "benchmark"
]  # fmt: skip

PYTHON = """\
#!/bin/sh
echo "python $*" >>"$CALLS"
case "$*" in
  "-c import $LACKS") exit 1 ;;
  "-c import "*) exit 0 ;;
  *build_in_place*) echo "archs $TORCH_CUDA_ARCH_LIST, proxy $https_proxy" >>"$CALLS"; act=$BUILD ;;
  *"-m pytest"*)
    act=$TESTS
    while [ "$1" != --junitxml ]; do shift; done
    echo tested >"$2"
    xml=$2 ;;
  *sanitizer_selection*) echo "no caching $PYTORCH_NO_CUDA_MEMORY_CACHING" >>"$CALLS" ;;
  *benchmark.py*)
    echo "data $GDEXT_DATA" >>"$CALLS"
    case "$*" in *" targets "*) act=$TARGETS ;; esac
    [ "$act" != nothing ] || exit 1
    while [ "$1" != --out ]; do shift; done
    mkdir -p "$2"; for name in json md png svg; do echo measured >"$2/benchmark.$name"; done
    printf '%s\\n' "" "## Targets" "" "- a target: met" "" "## The machine's limits" "" "much" \\
      "" "## Notes" "" "- a note" >>"$2/benchmark.md" ;;
esac
echo "said by python"
case "$act" in
  slow) trap 'kill $!; echo interrupted >"${xml:-/dev/null}"; exit 2' INT; sleep 60 & wait ;;
  fail) exit 3 ;;
esac
"""
SANITIZER = """\
#!/bin/sh
echo "compute-sanitizer $*" >>"$CALLS"
[ "$2" != "$SANITIZER_FINDS" ] || exit 9
shift 4
exec "$@"
"""
RECORDER = '#!/bin/sh\necho "network $0 $*" >>"$CALLS"\nexit 1\n'
VERDICTS = "## Targets\n- a target: met\n## Notes\n- a note\n"


class Machine:
    """A folder with the script and the programs it finds."""

    def __init__(self, folder: Path) -> None:
        self.root, self.programs = folder / "repository", folder / "bin"
        self.calls, self.out = folder / "calls", folder / "results"
        (self.root / "scripts").mkdir(parents=True)
        self.programs.mkdir()
        self.script = self.root / "scripts" / SCRIPT.name
        shutil.copy(SCRIPT, self.script)
        self.program("python3", PYTHON)
        self.program("compute-sanitizer", SANITIZER)
        self.program("nvcc", "#!/bin/sh\n")
        self.program("nvidia-smi", "#!/bin/sh\necho 9.0\n")
        for name in ("pip", "pip3", "curl", "wget", "git", "apt-get"):
            self.program(name, RECORDER)

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def edit(self, old: str, new: str) -> None:
        text = self.script.read_text()
        assert text.count(old) == 1
        self.script.write_text(text.replace(old, new))

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.script), *arguments],
            env={"PATH": f"{self.programs}:{os.environ['PATH']}", "CALLS": str(self.calls),
                 "OUT": str(self.out), "LACKS": "nothing", **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )  # fmt: skip

    def stages(self) -> dict[str, dict]:
        stages = json.loads((self.out / "summary.json").read_text())["stages"]
        return {stage["name"]: stage for stage in stages}

    def statuses(self) -> dict[str, str]:
        return {name: stage["status"] for name, stage in self.stages().items()}


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


ALL_PASSED = dict.fromkeys(NAMES, "passed")


def test_all_stages_in_order(machine):
    done = machine.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.statuses() == ALL_PASSED and [*machine.stages()] == NAMES
    assert json.loads((machine.out / "summary.json").read_text())["passed"] is True
    assert [line.split()[0] for line in done.stdout.splitlines()[: len(NAMES)]] == NAMES
    calls = machine.calls.read_text()
    assert "archs 9.0, proxy http://127.0.0.1:9" in calls
    assert not re.search("^network ", calls, re.MULTILINE)
    for tool in NAMES[3:7]:
        assert f"compute-sanitizer --tool {tool} --error-exitcode 9 python3" in calls
    assert calls.count("no caching 1") == 4
    assert "scripts/benchmark.py --device cuda --quick" in calls
    log = (machine.out / "log.txt").read_text()
    assert log.count("said by python") == len(NAMES)
    assert [*re.findall(r"^== (\w+) \(", log, re.MULTILINE)] == NAMES
    left = sorted(path.name for path in machine.out.iterdir())
    results = [f"{name}.{kind}" for name in ("benchmark", "targets") for kind in ("json", "md")]
    assert left == sorted([*results, "log.txt", "summary.json", "tests.xml"])
    assert VERDICTS in done.stdout
    assert "--sections accuracy limits targets --seeds 1" in calls
    assert f"--junitxml {machine.out}/tests.xml --durations 20 -rf -k cuda" in calls


@pytest.mark.parametrize(("act", "status"), [("fail", "failed"), ("slow", "timed out")])
def test_targets_are_said_however_their_stage_ended(machine, act, status):
    machine.edit('"targets 85"', '"targets 1"')
    done = machine.run(TARGETS=act)
    assert done.returncode == 1
    assert machine.statuses() == {**ALL_PASSED, "targets": status}
    assert VERDICTS in done.stdout
    assert (machine.out / "targets.json").read_text() == "measured\n"


def test_targets_of_which_nothing_was_saved(machine):
    """What an earlier run left in the same folder is no result of this one."""
    machine.out.mkdir()
    (machine.out / "tests.xml").write_text("of another run")
    (machine.out / "targets.md").write_text("## Targets\n- of another run: met\n")
    done = machine.run(TARGETS="nothing", LACKS="pytest")
    assert done.returncode == 1
    assert not (machine.out / "tests.xml").exists()
    assert "targets: not measured, nothing was saved (see log.txt)\n" in done.stdout
    assert "met" not in done.stdout


def mnist_in(folder: Path) -> Path:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").touch()
    return folder


def test_where_the_data_lie(machine, tmp_path):
    def run(*arguments: str, **environ: str) -> str:
        machine.calls.unlink(missing_ok=True)
        done = machine.run(*arguments, **environ)
        assert done.returncode == 0
        said = json.loads((machine.out / "summary.json").read_text())["mnist"]
        assert f"\nMNIST: {said}\n" in done.stdout
        calls = machine.calls.read_text()
        [folder] = set(re.findall("^data (.*)", calls, re.MULTILINE))
        assert said.startswith((f"{folder}/MNIST/raw", f"not in {folder}/MNIST/raw"))
        return ("not in " if said.startswith("not in ") else "") + folder

    assert run() == f"not in {machine.root}/data"
    shared, of_user, given = (
        str(mnist_in(tmp_path / name)) for name in ("shared/data", "of_user", "given")
    )
    assert run() == shared
    assert run(GDEXT_DATA=of_user) == of_user
    assert run("--data", given, GDEXT_DATA=of_user) == given
    assert run(GDEXT_DATA="~/given", HOME=str(tmp_path)) == given
    (tmp_path / "empty").mkdir()
    assert run("--data", str(tmp_path / "empty")) == f"not in {tmp_path}/empty"


def test_a_stage_that_fails_keeps_no_other_from_running(machine):
    done = machine.run(BUILD="fail", SANITIZER_FINDS="racecheck")
    assert done.returncode == 1
    assert machine.statuses() == {**ALL_PASSED, "build": "failed", "racecheck": "failed"}
    assert machine.stages()["build"]["exit_code"] == 3
    assert machine.stages()["racecheck"]["note"] == "exit code 9"
    assert json.loads((machine.out / "summary.json").read_text())["passed"] is False


def test_a_stage_has_a_limit(machine):
    machine.edit('"tests 110"', '"tests 1"')
    assert machine.run(TESTS="slow").returncode == 1
    assert machine.statuses() == {**ALL_PASSED, "tests": "timed out"}
    assert machine.stages()["tests"]["seconds"] <= 5
    assert (machine.out / "tests.xml").read_text() == "interrupted\n"


def test_all_stages_together_have_a_limit(machine):
    machine.edit("TOTAL=530", "TOTAL=2")
    assert machine.run(BUILD="slow").returncode == 1
    statuses = machine.statuses()
    assert statuses["build"] == "timed out" and statuses["benchmark"] == "not run"
    assert machine.stages()["benchmark"]["note"] == "the 2 s for all stages are over"


def test_limits_are_below_nine_minutes():
    text = SCRIPT.read_text()
    limits = [int(limit) for limit in re.findall(r'^  "\w+ (\d+)"$', text, re.MULTILINE)]
    total = re.search(r"^TOTAL=(\d+)", text, re.MULTILINE)
    assert len(limits) == len(NAMES) and total
    assert sum(limits) <= int(total[1]) < 9 * 60 - 9  # --kill-after


@pytest.mark.parametrize("module", ["pytest", "hypothesis", "expecttest", "numpy"])
def test_what_the_tests_lack_is_said(machine, module):
    done = machine.run(LACKS=module)
    assert done.returncode == 1
    assert machine.statuses() == {**ALL_PASSED, "tests": "not run"}
    assert f"python3 has no {module}: bring it along (--packages)" in done.stdout


@pytest.mark.parametrize(
    ("program", "stages", "note"),
    [
        ("nvidia-smi", ["build"], "nvidia-smi names no compute capability (it said: '')"),
        ("compute-sanitizer", NAMES[3:7], "compute-sanitizer is not on PATH"),
    ],
)
def test_a_tool_that_is_not_there(machine, program, stages, note):
    if program == "compute-sanitizer" and shutil.which(program):
        pytest.skip("this machine has one")
    machine.program(program, "#!/bin/sh\nexit 1\n")
    if program == "compute-sanitizer":
        (machine.programs / program).unlink()
    done = machine.run()
    assert done.returncode == 1
    assert machine.statuses() == {**ALL_PASSED, **dict.fromkeys(stages, "not run")}
    assert all(machine.stages()[stage]["note"] == note for stage in stages)


def test_no_build_is_no_failure(machine):
    assert machine.run("--no-build").returncode == 0
    assert machine.statuses() == {**ALL_PASSED, "build": "not run"}
    assert "build_in_place" not in machine.calls.read_text()


def test_packages_and_folder(machine, tmp_path):
    packages = tmp_path / "packages"
    packages.mkdir()
    machine.edit("export GDEXT_CUDA=1\n", 'export GDEXT_CUDA=1; echo "$PYTHONPATH" >>"$CALLS"\n')
    elsewhere = tmp_path / "elsewhere"
    assert machine.run("--packages", str(packages), str(elsewhere)).returncode == 0
    assert machine.calls.read_text().splitlines()[0] == f"{machine.root}:{packages}"
    assert (elsewhere / "summary.json").exists() and not machine.out.exists()


def test_dry_run_runs_nothing(machine):
    done = machine.run("--dry-run")
    assert done.returncode == 0
    assert re.findall(r"^(\w+), at most", done.stdout, re.MULTILINE) == NAMES
    assert not machine.out.exists()
    calls = machine.calls.read_text().splitlines()
    assert all(call.startswith("python -c import ") for call in calls)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "unrecognized argument: --bogus"),
        (["--packages"], "--packages: wanted a value"),
        (["--packages", "nowhere"], "--packages: no such folder: nowhere"),
        (["--data", "nowhere"], "--data: no such folder: nowhere"),
        (["a", "b"], "wanted one folder, got a and b"),
    ],
)
def test_bad_arguments(machine, arguments, message):
    done = machine.run(*arguments)
    assert done.returncode == 2
    assert done.stderr == f"check_gpu.sh: error: {message} (see the top of this file)\n"
