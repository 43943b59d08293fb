"""MNIST as scaled tensors on the training device."""

from __future__ import annotations

from argparse import Namespace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gdext import data
from gdext.training.engine import DTYPES
from gdext.training.options import UsageError

MEAN, STD = 0.1307, 0.3081  # of the training set's pixels, scaled to [0, 1]


class Split(NamedTuple):
    """inputs: [N, 784] in the run's dtype; targets: as the loss wants them; labels: int64 [N];
    images: uint8 [N, 28, 28], on the CPU."""

    inputs: Tensor
    targets: Tensor
    labels: Tensor
    images: Tensor


class Dataset(NamedTuple):
    train: Split
    test: Split
    source: str


def load(options: Namespace, device: torch.device) -> Dataset:
    """The whole of MNIST on `device`, scaled once.

    Raises:
        gdext.data.DataError, ImportError: as gdext.data.mnist.
        UsageError: --limit or --batch-size is larger than the training set.
    """
    train = data.mnist(options.data_dir)
    test = data.mnist(options.data_dir, train=False)
    if train.source != test.source:
        # The 5,000-digit subset is part of MNIST's training set: mixed, one would test on it.
        raise data.DataError(f"training set is {train.source}, test set is {test.source}")
    count = options.limit or len(train.labels)
    if count > len(train.labels):
        raise UsageError(f"--limit {count}: the training set has {len(train.labels)} samples")
    if options.batch_size != "full" and options.batch_size > count:
        raise UsageError(
            f"--batch-size {options.batch_size} is more than the {count} training samples"
        )
    return Dataset(
        _split(train.images[:count], train.labels[:count], options, device),
        _split(test.images, test.labels, options, device),
        train.source,
    )


def _split(images: Tensor, labels: Tensor, options: Namespace, device: torch.device) -> Split:
    dtype = DTYPES[options.dtype]
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = images.to(device).flatten(1).to(exact).div_(255)
    if options.pixels == "standard":
        inputs.sub_(MEAN).div_(STD)
    inputs = inputs.to(dtype)
    labels = labels.to(device)
    targets = one_hot(labels, 10).to(dtype) if options.loss == "mse" else labels
    return Split(inputs, targets, labels, images)
