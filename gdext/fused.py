"""Many training steps of a whole MLP in one native call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gdext._fused.call import Call
from gdext._fused.data import (
    check_apart,
    read_batch_size,
    read_data,
    read_generator,
    read_order,
    read_steps,
)
from gdext._fused.group import Group
from gdext._fused.loss import read_loss
from gdext._fused.memory import Memory, memory_key
from gdext._fused.network import Network
from gdext._fused.optimizer import Update, read_lr
from gdext._fused.shared import SharedSteps, claims_of_model

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["FusedTrainer"]

# How long a native call may take before Python sees signals again.
_SECONDS = 0.1

_BYTE_SCALE, _BYTE_SHIFT = 1 / 255, 0.0


class FusedTrainer:
    r"""Trains an MLP by SGD, forward pass, loss, backward pass and update in one kernel.

    A step does to the model and the optimizer what these lines do, up to rounding::

        C = loss(model(x), y)
        optimizer.zero_grad()
        C.backward()
        optimizer.step()

    but that no gradient is stored: ``p.grad`` is neither read nor written. Parameters, momentum
    buffers and learning rates are the model's and the optimizer's own, and are read anew at every
    call: steps of this class and of the loop above may take turns, and loading a state_dict,
    changing options or exchanging parameters between them is like between two steps of the loop.

    Same inputs and the same number of threads (torch.set_num_threads): same bits. Ctrl-C stops
    between two steps. The GIL is released while steps are taken: other threads run, and must
    write neither to the parameters and momentum buffers nor to what the call was given until it
    has returned. What they write may be lost, or read in part, and the kernel cannot tell.

    On CUDA, inputs, targets and order are on the device of the parameters, and so are the losses.
    The steps are launched on the current stream, a bounded number ahead, and a call returns without
    waiting for the last of them. It waits for the stream once before the first, where there are an
    order or class indices to check; copies of what is on the CPU, ``lr`` or a generator's order,
    may wait too, and a param group's learning rate that is a tensor on the device is waited for.
    Same inputs, same kind of GPU: same bits.

    In a CUDA graph's capture the learning rates of param groups must be numbers, and are those at
    that time, as a number given as ``lr`` is. Other ``lr`` and ``order`` must be on the device, and
    are read at each replay, the rates unchecked. Momentum buffers that are new begin anew with each
    replay, as those of torch.optim do, and an order or class out of range ends the replay.

    Args:
        model: layers of torch.nn.Linear or gdext.nn.Linear, each followed by at most one activation
            that :func:`gdext.nn.convert` knows, in (nested) torch.nn.Sequential, with
            torch.nn.Flatten() and Identity anywhere; gdext.nn.MLP is one. Parameters on the CPU or
            on one CUDA device, all of them float32, float64, bfloat16 or float16.
        optimizer: gdext.optim.SGD or torch.optim.SGD over the parameters of these layers, all of
            them and no others, in any groups; any options but ``differentiable``.
        loss: MSELoss or CrossEntropyLoss of torch.nn or gdext.nn, with reduction "mean" or "sum".
        process_group: processes that take each step together, each with samples of its own: the
            batch is theirs, one after the other, and ``C`` its loss. All must make the same calls,
            on models alike; each step sums up one buffer of all gradients over them, and leaves the
            same bits on each.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: an argument is none of these; a
            parameter is shared or its memory is, wholly or in part, does not require a gradient, or
            is on another device; hooks are registered on modules, parameters or the optimizer's
            step, which would not be called. Said here, and again at every call; nothing has been
            changed then.
        RuntimeError: the ranks of ``process_group`` differ in parameters, momentum buffers, options
            or the number of steps, or one of them refuses its arguments: said on each, here and at
            every call, before anything is changed. Or one has ended in the middle of a call: then
            some ranks may have taken a step that others have not, and all should go on from a
            checkpoint.

    Source: the steps are those of csrc/contract/mlp.h; the update's, see :class:`gdext.optim.SGD`.

    Example::

        >>> model = gdext.nn.MLP([784, 64, 10])
        >>> optimizer = gdext.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> trainer = gdext.FusedTrainer(model, optimizer, gdext.nn.CrossEntropyLoss())
        >>> images = torch.randint(256, (1000, 28, 28), dtype=torch.uint8)
        >>> labels = torch.randint(10, (1000,))
        >>> for epoch in range(3):
        ...     losses = trainer.run(images, labels, 32, order=torch.default_generator)
        >>> losses.shape  # one for each of the epoch's steps
        torch.Size([32])
        >>> trainer.step(images[:8], labels[:8]).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: nn.Module,
        process_group: ProcessGroup | None = None,
    ) -> None:
        self._group = None if process_group is None else Group(process_group)
        if self._group is None:
            self._begin(model, optimizer, loss)
        else:
            self._group.together(
                lambda: self._begin(model, optimizer, loss),
                lambda network_and_update: claims_of_model(*network_and_update),
            )

    def _begin(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module
    ) -> tuple[Network, Update]:
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        # Memory of the kernel's own, kept between calls. A call takes it out of the list, so that
        # calls from several threads at a time have different ones. On CUDA PyTorch's allocator
        # does as much, for each stream; here is how much the last call wanted.
        self._workspaces: list[Tensor] = []
        self._workspace_size = 0
        self._network = Network(model)
        # Where the parameters and buffers lie that were found to be good, with its key.
        self._found: tuple[object, Memory] | None = None
        network, update, _ = self._read()
        read_loss(loss)
        return network, update

    def step(
        self,
        x: Tensor,
        y: Tensor,
        *,
        input_scale: float = _BYTE_SCALE,
        input_shift: float = _BYTE_SHIFT,
    ) -> Tensor:
        """One step on the batch ``x``, ``y``: ``run`` with the batch size B = ``len(x)``.

        Returns:
            The loss before the update, float64, 0-dimensional.
        """
        batch_size = x.shape[0] if isinstance(x, Tensor) and x.dim() else 1
        return self._take(x, y, batch_size, None, None, input_scale, input_shift)

    def run(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        *,
        order: Tensor | torch.Generator | None = None,
        lr: float | Sequence[float] | Tensor | None = None,
        input_scale: float = _BYTE_SCALE,
        input_shift: float = _BYTE_SHIFT,
        steps: int | None = None,
    ) -> Tensor:
        """One step for each B = ``batch_size`` samples of ``order``; the last may have fewer.

        Args:
            inputs: x, shape ``[N, I]``, or ``[N, ...]`` with I elements each, of the parameters'
                dtype; or uint8, u, and then x = ``input_scale`` u + ``input_shift``, rounded to
                their dtype.
            targets: class indices, int64 ``[N]`` (cross entropy), or ``[N, C]`` of the parameters'
                dtype (mse).
            batch_size: B, from 1 (the textbook's SGD) to N (gradient descent).
            order: the samples to take, int64 ``[M]``, each from 0 to N - 1, in any number. A
                generator: all N, in the order of torch.randperm. None: all N as they stand.
            lr: learning rates in place of the param groups' own: one number for all, shape
                ``[steps]``, or ``[steps, groups]``, where steps = ceil(M / B).
            input_scale, input_shift: for uint8 inputs alone; by default [0, 255] becomes [0, 1].
            steps: with a process group, the most that any of its ranks takes. A rank whose samples
                are used up contributes none to the batches that are left. None: ceil(M / B), which
                is then the same on all ranks.

        Returns:
            float64 ``[steps]``: the loss of each step, before its update.

        Raises:
            IndexError: ``order`` names a sample, or ``targets`` a class, that there is not.
            ValueError, TypeError: shapes, dtypes or numbers out of their range; an argument, or the
                loss's class weights, in memory of a parameter or momentum buffer.
            RuntimeError: as the class; under autocast or torch.inference_mode, or inputs that
                require a gradient, which there is none of here.

        All checks come before the first change, and a generator whose order is refused goes back to
        where it was. After KeyboardInterrupt, or whatever else a signal handler raises, parameters
        and momenta are those after the same whole step. After an error of CUDA itself, of a kernel
        that died or a launch that failed, the steps launched before it count as taken, in the
        generator's and the optimizer's state; parameters and momenta may be those amid a step, and
        after a kernel's death PyTorch cannot read them any more.
        """
        losses = self._take(inputs, targets, batch_size, order, lr, input_scale, input_shift, steps)
        return losses.view(-1)

    def _take(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        order: Tensor | torch.Generator | None,
        lr: float | Sequence[float] | Tensor | None,
        input_scale: float,
        input_shift: float,
        steps: int | None = None,
    ) -> Tensor:
        """`run`, whose result has shape [] for a single step."""
        before: Tensor | None = None
        call: Call | None = None

        def prepare() -> Call:
            nonlocal before, call
            if isinstance(order, torch.Generator):
                device = next(self.model.parameters(), self._network.params[0]).device
                before = read_generator(order, device).get_state()
            call = self._prepare(
                inputs, targets, batch_size, order, lr, input_scale, input_shift, steps
            )
            return call

        try:
            if self._group is None:
                losses = self._take_steps(prepare())
            else:
                losses = self._take_steps_together(self._group, prepare)
        except BaseException:
            if before is not None and not (call and call.done.item()):
                order.set_state(before)  # type: ignore[union-attr]
            raise
        # By this, learning-rate schedulers know that a step came before their own.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        return losses

    def _prepare(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        order: Tensor | torch.Generator | None,
        lr: float | Sequence[float] | Tensor | None,
        input_scale: float,
        input_shift: float,
        steps: int | None,
    ) -> Call:
        """The arguments, checked but for what the op checks before its first step."""
        network, update, memory = self._read()
        loss = read_loss(self.loss)
        given: dict[str, object] = {"inputs": inputs, "targets": targets, "order": order, "lr": lr}
        given["weight of the loss"] = loss.weight
        for index, group in enumerate(self.optimizer.param_groups):
            given[f"optimizer.param_groups[{index}]['lr']"] = group["lr"]
        check_apart(memory, given)
        device = network.params[0].device
        inputs, targets = read_data(inputs, targets, loss.kind, device)
        if inputs.dtype is not torch.uint8:
            if (input_scale, input_shift) != (_BYTE_SCALE, _BYTE_SHIFT):
                raise ValueError(
                    "input_scale, input_shift: wanted none (they are for uint8 inputs), got "
                    f"{input_scale}, {input_shift} with inputs of {inputs.dtype}"
                )
        elif not (math.isfinite(input_scale) and math.isfinite(input_shift)):
            raise ValueError(
                f"input_scale, input_shift: wanted finite numbers, got {input_scale}, {input_shift}"
            )
        count = inputs.shape[0]
        batch_size = read_batch_size(batch_size, count)
        if order is not None and not isinstance(order, torch.Generator):
            order = read_order(order, device)
        samples = order.numel() if isinstance(order, Tensor) else count
        own_steps = -(-samples // batch_size)
        all_steps = read_steps(steps, own_steps, self._group is not None)
        rates = read_lr(lr, all_steps, len(self.optimizer.param_groups), device)
        if loss.weight is not None:
            loss = loss._replace(weight=loss.weight.contiguous())
        if isinstance(order, torch.Generator):  # last, since what is drawn must be given back
            order = torch.randperm(count, generator=order, device=order.device)
            order = order.to(device, non_blocking=True)
        losses_shape = own_steps if all_steps > 1 else ()
        return Call(
            network,
            update,
            loss,
            inputs,
            targets,
            order,
            batch_size,
            own_steps,
            all_steps,
            rates,
            input_scale,
            input_shift,
            losses=torch.empty(losses_shape, dtype=torch.float64, device=device),
            done=torch.zeros((), dtype=torch.int64),
        )

    def _take_steps(self, call: Call) -> Tensor:
        update = call.update
        note_state = partial(self.optimizer.state.update, update.state)
        # The kernel writes where autograd cannot see it.
        written = [*call.network.params, *update.buffers]
        note_writes = partial(torch._C._increment_version, written)
        workspace = self._workspace(call)
        try:
            if update.state:  # ask first: a call that took no step must not note new buffers
                wanted = call.steps_op(call.memory(0), _SECONDS)()
                if wanted > workspace.numel():
                    workspace = call.memory(wanted)
            while call.done.item() < call.steps:
                take_steps = call.steps_op(workspace, _SECONDS)
                wanted, *_ = _in_one_go(take_steps, note_state, note_writes)
                if wanted > workspace.numel():
                    workspace = call.memory(wanted)
        finally:
            self._keep(workspace)
        return call.losses

    def _take_steps_together(self, group: Group, prepare: Callable[[], Call]) -> Tensor:
        """All checks on all ranks, and only then the first step."""
        call: Call

        def prepare_steps() -> SharedSteps:
            nonlocal call
            call = prepare()
            return SharedSteps(call)

        steps = group.together(prepare_steps, SharedSteps.claims)
        workspace = self._workspace(call)
        try:
            if steps.workspace > workspace.numel():
                workspace = call.memory(steps.workspace)
            return steps.take(group, self.optimizer, workspace)
        finally:
            self._keep(workspace)

    def _workspace(self, call: Call) -> Tensor:
        if call.device.type == "cpu" and self._workspaces:
            return self._workspaces.pop()
        return call.memory(self._workspace_size if call.device.type == "cuda" else 0)

    def _keep(self, workspace: Tensor) -> None:
        if workspace.is_cpu:
            self._workspaces.append(workspace)
        else:
            self._workspace_size = workspace.numel()

    def _read(self) -> tuple[Network, Update, Memory]:
        """The model and the optimizer as they are now, checked, and where their tensors lie."""
        if not self._network.is_current():
            self._network = Network(self.model)
        network = self._network
        network.check_gradients()
        update = Update(self.optimizer, network)
        key = memory_key(network.params, update.buffers)
        found = self._found
        if found is None or key is None or key != found[0]:
            network.check_parameters()
            found = self._found = key, update.check_memory(network)
        return network, update, found[1]


def _in_one_go(*calls: partial[Any]) -> list[Any]:
    """The results of these calls of C functions.

    Python runs signal handlers between instructions of its own, of which there are none from the
    first call to the last: a handler that raises does so before all of them or after all.
    """
    return list(map(partial.__call__, calls))
