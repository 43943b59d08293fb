"""Checksums of data files on disk, and putting new ones in place atomically."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple


class DataError(RuntimeError):
    """A data set could not be loaded: a file is missing, corrupt or cannot be fetched.

    Example::

        >>> issubclass(gdext.data.DataError, RuntimeError)
        True
    """


class RawFile(NamedTuple):
    """A file of a data set: its gzip archive, that one's md5 and, where known, its own sha256."""

    name: str
    archive: str
    archive_md5: str
    sha256: str | None


def find_faults(raw: Path, files: Iterable[RawFile]) -> dict[Path, str]:
    """What is wrong with each of `files` in `raw`; those that pass their check are left out."""
    faults = {raw / file.name: _fault(raw, file) for file in files}
    return {path: fault for path, fault in faults.items() if fault is not None}


def describe(faults: dict[Path, str]) -> str:
    return "; ".join(f"{path} {fault}" for path, fault in faults.items())


def unpack_archives(raw: Path, files: Iterable[RawFile], temporary: Path) -> None:
    """Replaces each faulty file whose archive in `raw` is intact.

    `temporary` is a folder on the same file system.
    """
    for file in files:
        archive = raw / file.archive
        if _fault(raw, file) is None or not _archive_is_intact(archive, file):
            continue
        with gzip.open(archive) as packed, open(temporary / file.name, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        os.replace(temporary / file.name, raw / file.name)


def sha256_of(stream: BinaryIO | gzip.GzipFile) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _fault(raw: Path, file: RawFile) -> str | None:
    path, archive = raw / file.name, raw / file.archive
    if not path.is_file():
        return "is missing"
    wanted = file.sha256
    if wanted is None:
        if not _archive_is_intact(archive, file):
            return f"cannot be checked: {file.archive} with md5 {file.archive_md5} is not beside it"
        with gzip.open(archive) as stream:
            wanted = sha256_of(stream)
    with open(path, "rb") as stream:
        found = sha256_of(stream)
    if found != wanted:
        size = path.stat().st_size
        return f"is truncated or corrupt ({size} bytes, sha256 {found}, wanted {wanted})"
    return None


def _archive_is_intact(archive: Path, file: RawFile) -> bool:
    if not archive.is_file():
        return False
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    return md5 == file.archive_md5
