"""A call of FusedTrainer: its arguments, checked, and the op that takes its steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import gdext._autograd.mlp  # noqa: F401  (registers the op's fake kernel)
from gdext._fused.loss import Loss
from gdext._fused.network import Network
from gdext._fused.optimizer import Update

_mlp = torch.ops.gdext.mlp_.default._op  # not its wrapper, which is Python: see FusedTrainer


@dataclass
class Call:
    """What the op ``gdext::mlp_`` is given, all but the samples checked.

    Attributes:
        order: int64 [M], or None: all inputs as they stand.
        own_steps: ceil(M / B).
        steps: own_steps, or more where other processes have more.
        rates: float64 [steps, groups], or None: the groups' own.
        losses: float64 [steps], or [] for a single step; out.
        done: int64 [] on the CPU, the steps taken (CUDA: launched) so far.

    All other tensors are on the device of the parameters.
    """

    network: Network
    update: Update
    loss: Loss
    inputs: Tensor
    targets: Tensor
    order: Tensor | None
    batch_size: int
    own_steps: int
    steps: int
    rates: Tensor | None
    input_scale: float
    input_shift: float
    losses: Tensor
    done: Tensor

    @property
    def device(self) -> torch.device:
        return self.network.params[0].device

    def memory(self, size: int) -> Tensor:
        """A workspace of ``size`` bytes."""
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def steps_op(self, workspace: Tensor, seconds: float) -> partial[int]:
        """The op, to be called: it takes steps, at least one, until all are taken or ``seconds``
        have passed, and returns the bytes of workspace wanted; where it has fewer, it took no step.
        It raises IndexError, ValueError or RuntimeError, all before the first step."""
        update = self.update
        return self._op(
            workspace, update.buffers, update.first, update.groups, update.options, seconds
        )

    def take_gradient(
        self, workspace: Tensor, gradient: Tensor | None = None, norms: Tensor | None = None
    ) -> int:
        """Count a step as taken, and leave its gradient in ``gradient`` in place of an update.

        Args:
            gradient: float64 for parameters of float64, else float32; flat, one parameter after
                the other.
            norms: float64 [steps], what each step's sum of losses is divided by.

        Returns, Raises: as `steps_op`.
        """
        groups = [0] * len(self.network.params)
        return self._op(workspace, [], [], groups, [0.0] * 6, 0.0, gradient, norms)()

    def _op(
        self,
        workspace: Tensor,
        buffers: list[Tensor],
        first: list[bool],
        groups: list[int],
        options: list[float],
        seconds: float,
        gradient: Tensor | None = None,
        norms: Tensor | None = None,
    ) -> partial[int]:
        network, loss = self.network, self.loss
        return partial(
            _mlp,
            network.params,
            buffers,
            first,
            network.biases,
            network.activations,
            groups,
            options,
            self.inputs,
            self.targets,
            self.order,
            self.batch_size,
            self.rates if gradient is None else None,
            input_scale=self.input_scale,
            input_shift=self.input_shift,
            loss=loss.kind,
            reduction=loss.reduction,
            class_weight=loss.weight,
            ignore_index=loss.ignore_index,
            label_smoothing=loss.label_smoothing,
            workspace=workspace,
            losses=self.losses,
            done=self.done,
            seconds=seconds,
            gradient=gradient,
            norms=norms,
        )
