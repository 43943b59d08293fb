"""scripts/prepare.py, train.sh and test.sh: which environment is chosen, and what is done in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import prepare  # noqa: E402

PINS = [
    "torch==2.14.1",
    "setuptools==84.2.1",
    'numpy==2.4.6; python_version >= "3.11"',
    'numpy==2.2.6; python_version < "3.11"',
    "tqdm==4.70.1",
]
RIGHT = {"torch": "2.14.1+cu130", "setuptools": "84.2.1", "numpy": "2.4.6", "tqdm": "4.70.1"}


@pytest.fixture
def installed(monkeypatch):
    versions = dict(RIGHT)
    monkeypatch.setattr(prepare, "installed_version", versions.get)
    return versions


def test_nothing_to_install(installed):
    assert prepare.to_install(PINS, pinned=True) == []
    assert prepare.to_install(PINS, pinned=False) == []


def test_pinned_environment_gets_exact_versions(installed):
    installed.update(torch="2.13.0", numpy="2.3.0")
    del installed["tqdm"]
    expected = [PINS[0], PINS[2], PINS[3], PINS[4]]
    assert prepare.to_install(PINS, pinned=True) == expected


def test_users_environment_gets_what_is_missing_and_keeps_the_rest(installed):
    installed.update(torch="2.11.0", numpy="1.26.0", setuptools="65.5.0")
    del installed["tqdm"]
    assert prepare.to_install(PINS, pinned=False) == ["setuptools>=77", "tqdm"]


def test_torch_without_metadata_is_never_installed_over(installed):
    del installed["torch"]
    assert prepare.to_install(PINS, pinned=False) == []


def test_half_installed_package_counts_as_missing(tmp_path, monkeypatch):
    folder = tmp_path / "halfway-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: halfway\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert prepare.installed_version("halfway") is None
    (folder / "INSTALLER").write_text("pip\n")
    assert prepare.installed_version("halfway") == "1.0"
    assert prepare.installed_version("not-a-package") is None


def test_every_requirement_is_a_pin():
    for line in prepare.requirements("test"):
        name, _, rest = line.partition("==")
        assert name
        assert rest[0].isdigit()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of what a fingerprint is taken of, with prepare pointed at it."""
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["setup.py", "csrc/torch/module.cpp", "scripts/build_support/new.py"]
)
def test_fingerprint_follows_what_the_build_reads(project, name):
    before = prepare.fingerprint()
    assert prepare.fingerprint() == before
    with (project / name).open("a") as file:
        file.write("\n")
    assert prepare.fingerprint() != before


@pytest.mark.parametrize("variable", prepare.BUILD_VARIABLES)
def test_fingerprint_follows_the_environment(project, monkeypatch, variable):
    before = prepare.fingerprint()
    monkeypatch.setenv(variable, "something else")
    assert prepare.fingerprint() != before


@pytest.fixture
def commands(project, monkeypatch):
    """Stages that prepare() starts; instead of running, a build leaves a library behind."""
    titles = []

    def run(title, command, log):
        titles.append(title)
        if title == "building gdext":
            (project / "gdext").mkdir(exist_ok=True)
            (project / "gdext" / "_C.abi3.so").touch()

    monkeypatch.setattr(prepare, "stage", run)
    monkeypatch.setattr(prepare, "installed_version", lambda name: "84.2.1")
    monkeypatch.setattr(prepare, "installed_from_here", lambda: True)
    return titles


def test_second_run_does_nothing(commands):
    prepare.prepare("test", pinned=False)
    assert commands == ["building gdext"]
    prepare.prepare("test", pinned=False)
    assert commands == ["building gdext"]


def test_second_run_needs_no_compiler(commands, monkeypatch):
    prepare.prepare("train", pinned=False)
    monkeypatch.setattr(prepare, "find_compiler", lambda environ: pytest.fail("looked for one"))
    prepare.prepare("train", pinned=False)


def test_build_is_repeated_where_another_gdext_was_installed(commands, monkeypatch):
    prepare.prepare("train", pinned=False)
    monkeypatch.setattr(prepare, "installed_from_here", lambda: False)
    prepare.prepare("train", pinned=False)
    assert commands == ["building gdext"] * 2


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, False),
        ('{"url": "file:///else/where", "dir_info": {"editable": true}}', False),
        ('{"url": "file:///my%20copy", "dir_info": {}}', False),
        ('{"url": "file:///my%20copy/gdext-0.1.0.whl", "archive_info": {}}', False),
        ('{"url": "file:///my%20copy", "dir_info": {"editable": true}}', True),
    ],
)
def test_whose_gdext_is_installed(monkeypatch, origin, expected):
    found = SimpleNamespace(read_text=lambda name: origin)
    monkeypatch.setattr(prepare, "distribution", lambda name: found)
    monkeypatch.setattr(prepare, "ROOT", Path("/my copy"))
    assert prepare.installed_from_here() is expected


def test_a_folder_that_cannot_be_written_to_is_one_line(project, monkeypatch, capsys):
    (project / "build").write_text("a file in the way")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "train"])
    monkeypatch.setattr(prepare, "installed_version", lambda name: "84.2.1")
    assert prepare.main() == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_build_is_repeated_after_a_change_or_a_loss(commands, project):
    prepare.prepare("train", pinned=False)
    (project / "gdext" / "_C.abi3.so").unlink()
    prepare.prepare("train", pinned=False)
    (project / "csrc/torch/module.cpp").write_text("")
    prepare.prepare("train", pinned=False)
    assert commands == ["building gdext"] * 3


def test_interrupted_build_leaves_no_stamp(commands, project, monkeypatch):
    def interrupt(title, command, log):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "stage", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare("train", pinned=False)
    prepare.prepare("train", pinned=False)
    assert commands == ["building gdext"]


def test_failing_stage_shows_the_end_of_its_output(tmp_path, capsys):
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(prepare.BuildError, match="the reason"):
        prepare.stage("trying", command, tmp_path / "log")
    assert capsys.readouterr().out.startswith("gdext: trying ... ")


def run_script(tmp_path: Path, python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """test.sh in a copy of scripts/, on a PATH with this shell script as its only Python."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for tool in ("bash", "dirname", "rm", "env"):
        (bin_dir / tool).symlink_to(shutil.which(tool))
    (bin_dir / "python3").write_text("#!/bin/bash\n" + python)
    (bin_dir / "python3").chmod(0o755)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", dirs_exist_ok=True)
    return subprocess.run(
        [str(tmp_path / "scripts" / "test.sh"), *arguments],
        env={"PATH": str(bin_dir), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
    )


def test_python_too_old(tmp_path):
    done = run_script(tmp_path, '[ "$1" = --version ] && echo Python 3.8.2 || exit 1')
    assert done.returncode == 1
    assert "gdext: Python 3.10 or newer is needed; found Python 3.8.2" in done.stderr


def test_venv_cannot_be_made(tmp_path):
    done = run_script(tmp_path, 'case "$*" in *torch*|"-m venv"*) exit 1 ;; esac')
    assert done.returncode == 1
    assert "apt install python3-venv python3-pip" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_venv_without_ensurepip_gets_pip_from_outside(tmp_path):
    python = """
case "$*" in
  *'find_spec("torch")'*) exit 1 ;;
  "-m venv --without-pip "*) exit 0 ;;
  "-m venv "*) exit 1 ;;
  "-m pip --python "*) echo "pip was asked" >&3 ;;
esac
"""
    done = run_script(tmp_path, python.replace(">&3", f">{tmp_path}/asked"))
    assert (tmp_path / "asked").read_text() == "pip was asked\n"
    assert "can make no virtual environment" not in done.stderr


def test_active_environment_with_torch_is_used(tmp_path):
    python = 'case "$1" in -c) exit 0 ;; esac; echo "$@"'
    done = run_script(tmp_path, python, "-k", "two words")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"{tmp_path}/scripts/prepare.py test",
        "-m pytest -k two words",
    ]
    assert not (tmp_path / ".venv").exists()


def test_failing_preparation_stops_the_script(tmp_path):
    python = 'case "$1" in -c) ;; -m) echo pytest ran ;; *) exit 7 ;; esac'
    done = run_script(tmp_path, python)
    assert done.returncode == 7
    assert "pytest ran" not in done.stdout
