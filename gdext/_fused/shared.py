"""Steps that several processes take together, each on its own part of every batch.

For each step: the gradient of this process's samples, divided by the norm of the whole batch, in
one flat buffer; its sum over all processes; and the update, which is the same on each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction

import gdext.optim  # noqa: F401  (registers the op sgd_'s fake kernel)
from gdext._fused.call import Call
from gdext._fused.group import Claims, Group, checksum, digest
from gdext._fused.loss import CROSS_ENTROPY
from gdext._fused.network import Network
from gdext._fused.optimizer import OPTIONS, Update

_sgd = torch.ops.gdext.sgd_.default
_MEAN = _reduction.get_enum("mean")


def claims_of_model(network: Network, update: Update) -> Claims:
    """What the ranks must have alike before there is data."""
    params = network.params
    shapes = [tuple(p.shape) for p in params]
    known = [b for b, first in zip(update.buffers, update.first, strict=True) if not first]
    return Claims(
        steps=0,
        layers=digest(shapes, params[0].dtype, network.biases, network.activations, update.groups),
        options=digest(update.options, update.first),
        rates=0,
        tensors=checksum([*params, *known]),
    )


class SharedSteps:
    """The steps of ``call``, checked for this process.

    Attributes:
        workspace: the bytes that the op wants.

    Raises:
        IndexError, ValueError, RuntimeError: what the op would raise.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        params = call.network.params
        dtype = params[0].dtype
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        count = sum(p.numel() for p in params)
        self._gradient = torch.empty(count, dtype=wide, device=call.device)
        self.workspace = 0
        if call.own_steps:  # an empty workspace, so that the op checks all and does nothing
            self.workspace = call.take_gradient(call.memory(0), self._gradient)
        self._norms = _own_norms(call)
        # In the parameters' dtype, for the update.
        self._rounded = self._gradient if dtype == wide else self._gradient.to(dtype)
        self._updates = [
            _GroupUpdate(call, index, self._rounded) for index in sorted(set(call.update.groups))
        ]

    def claims(self) -> Claims:
        call, loss = self._call, self._call.loss
        claims = claims_of_model(call.network, call.update)
        weight = [] if loss.weight is None else [loss.weight]
        return claims._replace(
            steps=call.steps,
            options=digest(claims.options, loss._replace(weight=None), checksum(weight)),
            rates=0 if call.rates is None else checksum([call.rates]),
        )

    def take(self, group: Group, optimizer: torch.optim.Optimizer, workspace: Tensor) -> Tensor:
        """All steps. Returns the losses, float64 [steps] or [] for one, on each rank."""
        call = self._call
        norms = self._norms_of_all(group)
        written = [*call.network.params, *call.update.buffers]
        for step in range(call.steps):
            if step < call.own_steps:
                call.take_gradient(workspace, self._gradient, norms[: call.own_steps])
            else:
                self._gradient.zero_()
            group.sum_(self._gradient)
            if self._rounded is not self._gradient:
                self._rounded.copy_(self._gradient)
            for update in self._updates:
                update.take(step)
            if step == 0:
                optimizer.state.update(call.update.state)
            torch.autograd.graph.increment_version(written)
        losses = torch.zeros(call.steps, dtype=torch.float64, device=call.device)
        losses[: call.own_steps] = call.losses
        group.sum_(losses)
        return losses if call.steps > 1 else losses[0]

    def _norms_of_all(self, group: Group) -> Tensor:
        counts = torch.zeros(2, self._call.steps, dtype=torch.float64, device=self._call.device)
        counts[0, : self._call.own_steps] = self._norms
        counts[1, : self._call.own_steps] = 1
        group.sum_(counts)
        norms, ranks = counts
        if not ranks.all():
            raise ValueError(
                f"steps: wanted at most {int(ranks.count_nonzero())}, for which a rank has "
                f"samples, got {self._call.steps}"
            )
        return norms if self._call.loss.reduction == _MEAN else torch.ones_like(norms)


class _GroupUpdate:
    """The update of the parameters of one param group, from their parts of ``gradient``."""

    def __init__(self, call: Call, index: int, gradient: Tensor) -> None:
        update, all_params = call.update, call.network.params
        options = dict(zip(OPTIONS, update.options[index * len(OPTIONS) :], strict=False))
        lr = options.pop("lr")
        self._rates = [lr] * call.steps if call.rates is None else call.rates[:, index].tolist()
        self._options: dict[str, Any] = options
        for flag in ("nesterov", "maximize"):
            self._options[flag] = bool(options[flag])
        parts = gradient.split([p.numel() for p in all_params])
        chosen = [
            (p, part.view(p.shape))
            for p, part, of in zip(all_params, parts, update.groups, strict=True)
            if of == index
        ]
        self._params = [p for p, _ in chosen]
        self._gradients = [g for _, g in chosen]
        momenta = zip(update.params_with_momentum, update.buffers, update.first, strict=True)
        own = set(map(id, self._params))
        of_group = [(buffer, first) for p, buffer, first in momenta if id(p) in own]
        self._buffers = [buffer for buffer, _ in of_group]
        self._first = [first for _, first in of_group]

    def take(self, step: int) -> None:
        first = self._first if step == 0 else []
        _sgd(
            self._params,
            self._gradients,
            self._buffers,
            first,
            self._rates[step],
            **self._options,
        )


def _own_norms(call: Call) -> Tensor:
    """float64 [own_steps], what the sums of losses are divided by, as far as it is of this process:
    its elements, or its samples, weighted and without the ignored ones."""
    loss = call.loss
    device = call.device
    everything = torch.arange(len(call.inputs), device=device)
    samples = everything if call.order is None else call.order
    if loss.kind == CROSS_ENTROPY:
        classes = call.targets[samples]
        counted = classes != loss.ignore_index
        weights = counted.double()
        if loss.weight is not None:
            weights *= loss.weight.double()[classes.where(counted, 0)]
    else:
        outputs = float(call.targets[0].numel())
        weights = torch.full((len(samples),), outputs, dtype=torch.float64, device=device)
    norms = torch.zeros(call.own_steps * call.batch_size, dtype=torch.float64, device=device)
    norms[: len(weights)] = weights
    return norms.view(-1, call.batch_size).sum(1)
