"""Bring an environment to where a script of this folder can run: its packages and an up-to-date
gdext.

    python scripts/prepare.py train|test [--pinned]

Called by train.sh and test.sh with the interpreter they chose. With --pinned (the repository's own
.venv) every package gets exactly the version of scripts/requirements/; without (an environment of
the user's) only missing ones are added, and the PyTorch there is left as it is. When nothing has
changed since the last time, it does nothing. Interrupted anywhere, the next call continues: a
package counts when its RECORD, which pip writes last, is there, and gdext counts when its stamp,
written last here, names the present state.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote

from build_support.environment import BuildError, find_compiler, find_torch

ROOT = Path(__file__).resolve().parent.parent
OLDEST_SETUPTOOLS = 77
BUILD_VARIABLES = ("GDEXT_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH", "CXX")


def requirements(job: str) -> list[str]:
    """The requirement lines of a job: "train", or "test", which needs train's as well."""
    names = ["train.txt"] + (["test.txt"] if job == "test" else [])
    text = "".join((ROOT / "scripts" / "requirements" / name).read_text() for name in names)
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def installed_version(name: str) -> str | None:
    """A package's version, or None where it is not, or not completely, installed."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    complete = found.read_text("INSTALLER") or found.read_text("PKG-INFO")
    return found.version if complete else None


def to_install(lines: list[str], pinned: bool) -> list[str]:
    """What to give pip: lines in full when pinned, otherwise bare names of what is missing."""
    pins: dict[str, list[str]] = {}
    for line in lines:
        name, pin = re.split("==|;", line)[:2]
        pins.setdefault(name, []).append(pin)
    wanted = []
    for name, allowed in pins.items():
        version = installed_version(name)
        if pinned:
            # A package may have a line for each range of Python versions; pip picks the one that
            # applies.
            if version is None or version.split("+")[0] not in allowed:
                wanted += [line for line in lines if line.startswith(f"{name}==")]
        elif name == "setuptools" and (version is None or _major(version) < OLDEST_SETUPTOOLS):
            wanted.append(f"setuptools>={OLDEST_SETUPTOOLS}")
        elif name != "torch" and version is None:
            wanted.append(name)
    return wanted


def _major(version: str) -> int:
    return int(version.split(".")[0])


def fingerprint() -> str:
    """A hash of all that decides what the build makes and where it is installed."""
    digest = hashlib.sha256()
    files = [ROOT / "setup.py", ROOT / "pyproject.toml"]
    files += [path for path in ROOT.glob("csrc/*/*") if path.is_file()]
    files += ROOT.glob("scripts/build_support/*.py")
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
    facts = [str(ROOT), sys.prefix, find_torch().version]
    facts += [f"{name}={os.environ.get(name)}" for name in BUILD_VARIABLES]
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()


def installed_from_here() -> bool:
    """Whether the gdext of this environment is this folder's, and not a wheel or another copy's,
    which would be imported in place of these sources."""
    try:
        origin = json.loads(distribution("gdext").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return False
    editable = origin.get("dir_info", {}).get("editable", False)
    return editable and unquote(origin.get("url", "")) == f"file://{ROOT}"


def is_built(stamp: Path) -> bool:
    """Whether this environment has gdext built from the present sources."""
    return (
        stamp.is_file()
        and installed_from_here()
        and (ROOT / "gdext" / "_C.abi3.so").is_file()
        and stamp.read_text() == fingerprint()
    )


def stage(title: str, command: list[str], log: Path) -> None:
    """Run a command quietly: one line with its time, or the end of what it said if it fails."""
    print(f"gdext: {title} ...", end="", flush=True)
    start = time.monotonic()
    with log.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
    print(f" {time.monotonic() - start:.0f} s", flush=True)
    if code != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise BuildError(f"this failed: {' '.join(command)}\n{end}\n(all of it is in {log})")


def prepare(job: str, pinned: bool) -> None:
    """Install what is missing and build gdext if anything has changed."""
    folder = ROOT / "build"
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
    stamp = folder / f"installed-{environment}"
    wanted = to_install(requirements(job), pinned)
    if not wanted and is_built(stamp):
        return

    find_compiler(os.environ)  # Before minutes of downloads, not after.
    kept = None if pinned else find_torch().version
    folder.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]

    if wanted:
        constraint = []
        if kept:
            (folder / "keep-torch.txt").write_text(f"torch=={kept}\n")
            constraint = ["-c", str(folder / "keep-torch.txt")]
        names = ", ".join(dict.fromkeys(re.split(r"[=>]", line)[0] for line in wanted))
        stage(
            f"installing {names} into {sys.prefix}",
            [*pip, *constraint, *wanted],
            folder / "pip.log",
        )

    if not is_built(stamp):
        command = [*pip, "-v", "--no-build-isolation", "--no-deps", "-e", str(ROOT)]
        stage("building gdext", command, folder / "build.log")
        stamp.write_text(fingerprint())


def main() -> int:
    """The command line; 0, or 1 after a message, or 130 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=["train", "test"])
    parser.add_argument("--pinned", action="store_true")
    arguments = parser.parse_args()
    try:
        prepare(arguments.job, arguments.pinned)
    except (BuildError, OSError) as error:
        print(f"gdext: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ngdext: interrupted; the next run continues from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
