"""Models, optimizers and losses that gdext.FusedTrainer refuses: what it says, and that nothing was
changed."""

import re

import pytest
import torch
from fused_runs import Pair, assert_refused, assert_unchanged, data, mlp, parts, torch_mlp
from torch import nn
from torch.nn.utils import parametrizations

import gdext
from gdext.nn import MLP, CrossEntropyLoss

SIZES = [7, 19, 12, 5]


def trainer(model, loss=None, **options):
    optimizer = gdext.optim.SGD(model.parameters(), **{"lr": 0.1, **options})
    return gdext.FusedTrainer(model, optimizer, loss or CrossEntropyLoss())


# Models.

UNKNOWN = (
    ": wanted a Linear, an activation that gdext knows with its default parameters, Flatten(), "
    "Identity, or a Sequential of those, got "
)


class Child(nn.Linear):
    pass


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        (nn.Dropout(0.5), "Dropout(p=0.5, inplace=False)"),
        (nn.LeakyReLU(0.2), "LeakyReLU(negative_slope=0.2)"),
        (nn.BatchNorm1d(3), "BatchNorm1d(3"),
        (nn.Conv1d(2, 2, 1), "Conv1d(2, 2"),
        (Child(3, 3), "Child(in_features=3"),
        (nn.Flatten(0), "Flatten(start_dim=0"),
        (Custom(), "Custom("),
        (nn.ModuleList([nn.Linear(3, 3)]), "ModuleList("),
        (parametrizations.weight_norm(nn.Linear(3, 3)), "ParametrizedLinear("),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_unknown_module(module, shown):
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(module, nn.Linear(3, 2)))
    with pytest.raises(TypeError, match=re.escape("model.1.0" + UNKNOWN + shown)):
        trainer(model)
    good = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Identity(), nn.Linear(3, 2)))
    late = trainer(good)
    good[1][0] = module
    with pytest.raises(TypeError, match=re.escape("model.1.0" + UNKNOWN + shown)):
        late.step(torch.randn(2, 3), torch.tensor([0, 1]))


def test_replaced_forward():
    model = torch_mlp(3, 4, 2)
    model[0].forward = lambda x: x
    with pytest.raises(TypeError, match=re.escape("model.0" + UNKNOWN + "Linear(")):
        trainer(model)


class Override(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (None, TypeError, "model: wanted a torch.nn.Module, got NoneType"),
        (nn.Sequential(), ValueError, "model: wanted at least one Linear, got none"),
        (
            nn.Sequential(nn.ReLU(), nn.Linear(2, 2)),
            ValueError,
            "model.0: wanted an activation right after a Linear, got ReLU after nothing",
        ),
        (
            nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Tanh()),
            ValueError,
            "model.2: wanted an activation right after a Linear, got Tanh after another activation",
        ),
        (
            nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 2)),
            ValueError,
            "model.1: wanted in_features 3 (out_features of the Linear before it), got 4",
        ),
    ],
)
def test_structure(model, error, text):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters())
    if isinstance(model, nn.Module) and list(model.parameters()):
        optimizer = torch.optim.SGD(model.parameters())
    assert_refused(lambda: gdext.FusedTrainer(model, optimizer, CrossEntropyLoss()), error, text)


def test_sequential_that_does_more():
    with pytest.raises(TypeError, match=re.escape("model" + UNKNOWN + "Override(")):
        trainer(Override(nn.Linear(2, 2)))


# What is found wrong at a call: (what is done to the pair, the error, its text).


def tie(pair):
    pair.model[1].weight = pair.model[0].weight
    pair.optimizer.param_groups[0]["params"] = list(pair.model.parameters())


def overlap(pair):
    memory = torch.randn(40, dtype=torch.float64)
    pair.model[1].bias.data, pair.model[0].bias.data = memory[:12], memory[8:27]


def overlapping_buffer(pair):
    p = pair.model[0].bias
    pair.optimizer.state[p] = {"momentum_buffer": p.detach()}


def expand(pair):
    pair.model[0].weight.data = torch.randn(19, 1, dtype=torch.float64).expand(19, 7)


def buffer(value):
    def change(pair):
        pair.optimizer.state[pair.model[1].weight] = {"momentum_buffer": value}

    return change


def group(**options):
    return lambda pair: pair.optimizer.param_groups[0].update(options)


def missing(pair):
    pair.optimizer.param_groups[0]["params"].pop(2)


def extra(pair):
    pair.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})


def on(hook, at):
    return lambda pair: getattr(at(pair), hook)(lambda *_: None)


def setting(at, name, value):
    return lambda pair: setattr(at(pair), name, value)


def parameter(convert):
    def change(pair):
        pair.model[1].bias = convert(pair.model[1].bias.detach())
        pair.optimizer.param_groups[0]["params"] = list(pair.model.parameters())

    return change


class OwnParameter(nn.Parameter):
    pass


NO_CALL = "wanted no hooks, which the fused step would not call; got some"
NO_STEP = "optimizer: wanted no hooks on step, which the fused step would not call; got some"
LATE = {
    "shared parameter": (
        tie, ValueError,
        "model.1.weight: wanted a parameter of this layer alone, got one that another layer has "
        "too",
    ),
    "shared memory": (
        overlap, ValueError, "0.bias: wanted memory of its own, got memory of 1.bias",
    ),
    "momentum that is the parameter": (
        overlapping_buffer, ValueError,
        "0.bias's momentum buffer: wanted memory of its own, got memory of 0.bias",
    ),
    "expanded parameter": (
        expand, ValueError,
        "0.weight: wanted every element at an address of its own, got an expanded tensor of shape "
        "[19, 7] with strides [1, 0]",
    ),
    "momentum of another shape": (
        buffer(torch.zeros(3, dtype=torch.float64)), ValueError,
        "optimizer: wanted 1.weight's momentum buffer of its dtype and shape, torch.float64 "
        "[12, 19], got torch.float64 [3]",
    ),
    "momentum of another dtype": (
        buffer(torch.zeros(12, 19)), ValueError,
        "optimizer: wanted 1.weight's momentum buffer of its dtype and shape, torch.float64 "
        "[12, 19], got torch.float32 [12, 19]",
    ),
    "missing parameter": (
        missing, ValueError,
        "optimizer: wanted every parameter of the model, got none of the name 1.weight",
    ),
    "extra parameter": (
        extra, ValueError,
        "optimizer: wanted the parameters of the model's layers alone, got another one: "
        "param_groups[1]['params'][0], of shape [3]",
    ),
    "requires_grad": (
        lambda pair: pair.model[2].weight.requires_grad_(False), RuntimeError,
        "2.weight: wanted requires_grad=True (the fused step updates every parameter), got False",
    ),
    "dtypes": (
        parameter(lambda b: nn.Parameter(b.float())), TypeError,
        "1.bias: wanted dtype torch.float64 (that of 0.weight), got torch.float32",
    ),
    "meta device": (
        parameter(lambda b: nn.Parameter(b.to("meta"))), NotImplementedError,
        "1.bias: wanted a parameter on cpu or cuda (the fused step has no kernel for another "
        "device), got device meta",
    ),
    "subclass": (
        parameter(OwnParameter), TypeError,
        "model.1.bias: wanted a plain torch.nn.Parameter, got OwnParameter",
    ),
    "forward hook": (
        on("register_forward_hook", lambda pair: pair.model[1]), RuntimeError,
        f"model.1: {NO_CALL}",
    ),
    "forward pre-hook": (
        on("register_forward_pre_hook", lambda pair: pair.model), RuntimeError,
        f"model: {NO_CALL}",
    ),
    "backward hook": (
        on("register_full_backward_hook", lambda pair: pair.model[0]), RuntimeError,
        f"model.0: {NO_CALL}",
    ),
    "parameter hook": (
        on("register_hook", lambda pair: pair.model[0].bias), RuntimeError,
        f"0.bias: {NO_CALL}",
    ),
    "accumulate hook": (
        on("register_post_accumulate_grad_hook", lambda pair: pair.model[0].bias), RuntimeError,
        f"0.bias: {NO_CALL}",
    ),
    "step pre-hook": (
        on("register_step_pre_hook", lambda pair: pair.optimizer), RuntimeError, NO_STEP,
    ),
    "step post-hook": (
        on("register_step_post_hook", lambda pair: pair.optimizer), RuntimeError, NO_STEP,
    ),
    "loss hook": (
        on("register_forward_hook", lambda pair: pair.loss), RuntimeError,
        "loss: wanted no hooks and no forward of its own, which the fused step would not call",
    ),
    "lr": (
        group(lr=float("nan")), ValueError,
        "optimizer.param_groups[0]: lr: wanted a finite number, got nan",
    ),
    "momentum": (
        group(momentum=-1.0), ValueError,
        "optimizer.param_groups[0]: momentum: wanted a finite number >= 0, got -1.0",
    ),
    "nesterov": (
        group(nesterov=True, dampening=0.1), ValueError,
        "optimizer.param_groups[0]: nesterov: wanted momentum > 0 and dampening == 0, got momentum "
        "0.9 and dampening 0.1",
    ),
    "differentiable": (
        group(differentiable=True), RuntimeError,
        "optimizer.param_groups[0]: differentiable: wanted False, got True; the update is a kernel "
        "that autograd does not see through: use torch.optim.SGD",
    ),
    "reduction": (
        setting(lambda pair: pair.loss, "reduction", "none"), ValueError,
        "loss: wanted reduction 'mean' or 'sum', got 'none'",
    ),
    "label_smoothing": (
        setting(lambda pair: pair.loss, "label_smoothing", 1.5), ValueError,
        "loss: wanted label_smoothing from 0 to 1, got 1.5",
    ),
    "class weights": (
        setting(lambda pair: pair.loss, "weight", torch.ones(4, dtype=torch.float64)), RuntimeError,
        "weight of the loss: wanted shape [5] (one for each output of the last layer), got [4]",
    ),
    "another loss": (
        setting(lambda pair: pair.trainer, "loss", nn.L1Loss()), TypeError,
        "loss: wanted an MSELoss or CrossEntropyLoss of torch.nn or gdext.nn, got L1Loss",
    ),
    "another optimizer": (
        lambda pair: setattr(
            pair.trainer, "optimizer", torch.optim.Adam(pair.model.parameters())
        ), TypeError,
        "optimizer: wanted an SGD of gdext.optim or torch.optim, got Adam",
    ),
}  # fmt: skip


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", LATE)
def test_found_at_a_call(name, begun):
    change, error, text = LATE[name]
    pair = Pair(mlp(*SIZES), CrossEntropyLoss())
    x, y = data(SIZES, 8, "cross_entropy")
    if begun:
        pair.trainer.run(x, y, 4)
    change(pair)
    before = parts(pair)
    assert_refused(lambda: pair.trainer.run(x, y, 4), error, text)
    assert_unchanged(pair, before)


def test_hooks_for_all_modules():
    pair = Pair(mlp(*SIZES), CrossEntropyLoss())
    x, y = data(SIZES, 8, "cross_entropy")
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match="register_module_"):
            pair.trainer.run(x, y, 4)
    finally:
        handle.remove()
    pair.trainer.run(x, y, 4)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_dtypes_without_a_kernel(dtype):
    model = nn.Linear(2, 2)
    for name, p in list(model.named_parameters()):
        setattr(model, name, nn.Parameter(p.detach().to(dtype)))
    text = f"weight: wanted dtype float32, float64, bfloat16 or float16, got {dtype}"
    assert_refused(lambda: trainer(model), TypeError, text)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["inputs", "targets", "order"])
def test_data_on_another_device_than_cuda(name):
    x, y, order = torch.randn(8, SIZES[0]), torch.zeros(8, dtype=torch.int64), torch.arange(8)
    given = {"inputs": x.cuda(), "targets": y.cuda(), "order": order.cuda()}
    given[name] = given[name].cpu()
    on_cuda = trainer(MLP(SIZES).cuda())
    text = f"{name}: wanted device cuda:0 (that of the parameters), got cpu"
    assert_refused(lambda: on_cuda.run(**given, batch_size=4), RuntimeError, text)
