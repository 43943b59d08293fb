"""SGD's errors: their text, and that nothing was changed."""

import pytest
import torch
from sgd import (
    assert_unchanged,
    clone_params,
    make_gradients,
    make_params,
    run,
    set_gradients,
    snapshot,
)
from torch import nn

import gdext

BAD_NUMBERS = [
    ("lr", float("nan"), "lr: wanted a finite number >= 0, got nan"),
    ("lr", float("inf"), "lr: wanted a finite number >= 0, got inf"),
    ("lr", torch.tensor(float("nan")), "lr: wanted a finite number >= 0, got nan"),
    ("lr", torch.ones(2), "lr: wanted one element, got shape [2]"),
    ("momentum", float("nan"), "momentum: wanted a finite number >= 0, got nan"),
    ("dampening", float("nan"), "dampening: wanted a finite number, got nan"),
    ("dampening", float("-inf"), "dampening: wanted a finite number, got -inf"),
    ("weight_decay", float("inf"), "weight_decay: wanted a finite number >= 0, got inf"),
]
NEGATIVE_NUMBERS = [
    ("lr", -0.1, "lr: wanted a finite number >= 0, got -0.1"),
    ("momentum", -0.9, "momentum: wanted a finite number >= 0, got -0.9"),
    ("weight_decay", -1.0, "weight_decay: wanted a finite number >= 0, got -1.0"),
]


def test_a_kernel_that_fails_is_not_tried_again(monkeypatch):
    """Some parameters, those of another dtype or device, may be updated by then."""
    update = gdext.optim._sgd

    def failing(*args, **options):
        update(*args, **options)
        if not options.get("check_only"):
            raise RuntimeError("gdext: CUDA kernel sgd: as if it failed after the first dtype")

    params = [torch.ones(3, dtype=d, requires_grad=True) for d in (torch.float32, torch.float64)]
    for p in params:
        p.grad = torch.ones_like(p)
    monkeypatch.setattr(gdext.optim, "_sgd", failing)
    with pytest.raises(RuntimeError, match="as if it failed"):
        gdext.optim.SGD(params, 0.25).step()
    assert [p.tolist() for p in params] == [[0.75] * 3] * 2


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        *(bad for bad in BAD_NUMBERS if "one element" not in bad[2]),
        ("lr", torch.ones(2), "Tensor lr must be 1-element"),  # torch's own checks
        ("lr", -0.1, "Invalid learning rate: -0.1"),
        ("momentum", -0.9, "Invalid momentum value: -0.9"),
        ("weight_decay", -1.0, "Invalid weight_decay value: -1.0"),
    ],
)
def test_bad_numbers_at_construction(name, value, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is compared below)
        gdext.optim.SGD(make_params("cpu"), **{"lr": 0.1, name: value})
    assert str(error.value) == text


@pytest.mark.parametrize(("name", "value", "text"), BAD_NUMBERS + NEGATIVE_NUMBERS)
def test_bad_numbers_in_a_later_group(device, name, value, text):
    params = make_params(device)
    optimizer = gdext.optim.SGD(params[:2], 0.1, momentum=0.9)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        optimizer.add_param_group({"params": params[2:], name: value})
    assert str(error.value) == text
    assert len(optimizer.param_groups) == 1

    optimizer.add_param_group({"params": params[2:]})
    run(optimizer, params, make_gradients(params, 1))
    before = snapshot(optimizer, params)
    optimizer.param_groups[1][name] = value
    if name == "lr":  # a schedule may take it below 0, see test_schedule_below_zero
        if text.endswith("-0.1"):
            return
        text = text.replace(" >= 0", "")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        optimizer.step()
    assert str(error.value) == text
    assert_unchanged(optimizer, params, before)


def test_schedule_below_zero(device):
    """torch checks lr's sign when it is given and not at each step; so a cosine may end at
    -1e-18."""
    params = make_params(device)
    peers, gradients = clone_params(params), make_gradients(params, 1)
    for kind, own in ((gdext.optim.SGD, params), (torch.optim.SGD, peers)):
        optimizer = kind(own, 0.5)
        optimizer.param_groups[0]["lr"] = -0.25
        run(optimizer, own, gradients)
    for got, want in zip(params, peers, strict=True):
        torch.testing.assert_close(got, want)


def test_nesterov_set_later(device):
    params = make_params(device)
    optimizer = gdext.optim.SGD(params, 0.1, momentum=0.9, dampening=0.3)
    set_gradients(params, make_gradients(params, 1)[0])
    before = snapshot(optimizer, params)
    optimizer.param_groups[0]["nesterov"] = True
    text = "nesterov: wanted momentum > 0 and dampening == 0, got momentum 0.9 and dampening 0.3"
    with pytest.raises(ValueError) as error:  # noqa: PT011
        optimizer.step()
    assert str(error.value) == text
    assert_unchanged(optimizer, params, before)


def test_differentiable_is_refused():
    text = (
        "differentiable: wanted False, got True; the update is a kernel that autograd does not see "
        "through: use torch.optim.SGD"
    )
    with pytest.raises(RuntimeError) as error:
        gdext.optim.SGD(make_params("cpu"), 0.1, differentiable=True)
    assert str(error.value) == text


def assert_step_refused(optimizer, params, error_type, text):
    before = snapshot(optimizer, params)
    with pytest.raises(error_type) as error:
        optimizer.step()
    assert str(error.value) == text
    assert_unchanged(optimizer, params, before)


def test_sparse_gradient(device):
    params = make_params(device, shapes=[(4, 5), (3,)])
    optimizer = gdext.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], 0.1, momentum=0.9)
    set_gradients(params, make_gradients(params, 1)[0])
    before = snapshot(optimizer, params)
    params[1].grad = params[1].grad.to_sparse()
    text = (
        "param_groups[1]['params'][0].grad: wanted a dense gradient (layout torch.strided), "
        "got torch.sparse_coo"
    )
    with pytest.raises(RuntimeError) as error:
        optimizer.step()
    assert str(error.value) == text
    params[1].grad = params[1].grad.to_dense()
    assert_unchanged(optimizer, params, before)


@pytest.mark.parametrize("groups", [1, 2])
def test_momentum_buffer_of_the_wrong_shape(device, groups):
    params = make_params(device, shapes=[(4, 5), (3,)])
    split = [{"params": params}] if groups == 1 else [{"params": [p]} for p in params]
    optimizer = gdext.optim.SGD(split, 0.1, momentum=0.9)
    set_gradients(params, make_gradients(params, 1)[0])
    optimizer.state[params[1]]["momentum_buffer"] = torch.zeros(7, device=device)
    name = "momentum_buffers[1]" if groups == 1 else "param_groups[1]: momentum_buffers[0]"
    param = "params[1]" if groups == 1 else "params[0]"
    text = f"{name}: wanted shape [3] (that of {param}), got [7]"
    assert_step_refused(optimizer, params, RuntimeError, text)


def test_parameters_that_share_memory(device):
    memory = torch.randn(10, device=device)
    params = [nn.Parameter(memory[:4]), nn.Parameter(memory[4:8]), nn.Parameter(memory[7:])]
    gradients = make_gradients(params, 1)[0]
    optimizer = gdext.optim.SGD(params, 0.1)
    set_gradients(params, gradients)
    text = "params[2]: wanted memory of its own, got memory of params[1]"
    assert_step_refused(optimizer, params, RuntimeError, text)
    apart = params[:2]
    gdext.optim.SGD(apart, 0.1).step()  # side by side in one storage is no overlap


def test_integer_parameters(device):
    p = torch.ones(3, dtype=torch.int32, device=device)
    p.grad = torch.ones_like(p)
    optimizer = gdext.optim.SGD([nn.Parameter(p, requires_grad=False)], 0.1)
    optimizer.param_groups[0]["params"][0].grad = torch.ones_like(p)
    text = "params[0]: wanted dtype float32, float64, bfloat16 or float16, got int32"
    assert_step_refused(optimizer, optimizer.param_groups[0]["params"], RuntimeError, text)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("shared", "params[1]: wanted memory of its own, got memory of params[0]"),
        (
            "expanded",
            "params[0]: wanted every element at an address of its own, got an expanded tensor of "
            "shape [4] with strides [0]",
        ),
        ("integers", "params[0]: wanted dtype float32, float64, bfloat16 or float16, got int32"),
    ],
)
def test_fault_in_a_later_group_leaves_the_first_untouched(device, fault, text):
    good = nn.Parameter(torch.ones(3, device=device))
    memory = torch.ones(6, device=device)
    bad = {
        "shared": [memory[:4], memory[2:]],
        "expanded": [memory[:1].expand(4)],
        "integers": [memory.int()],
    }[fault]
    params = [good, *(nn.Parameter(t, requires_grad=t.is_floating_point()) for t in bad)]
    for p in params:
        p.grad = torch.ones_like(p)
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    optimizer = gdext.optim.SGD(groups, 0.1, momentum=0.9)
    assert_step_refused(optimizer, params, RuntimeError, f"param_groups[1]: {text}")


def test_too_little_memory_for_a_later_group_changes_nothing(device, monkeypatch):
    params = make_params(device)
    optimizer = gdext.optim.SGD([{"params": params[:2]}, {"params": params[2:]}], 0.1, momentum=0.9)
    set_gradients(params, make_gradients(params, 1)[0])
    before = snapshot(optimizer, params)
    empty_like, left = torch.empty_like, iter(range(2))  # those of the first group

    def until_memory_ends(*arguments, **options):
        if next(left, None) is None:
            raise torch.OutOfMemoryError("planted")
        return empty_like(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty_like", until_memory_ends)
        with pytest.raises(torch.OutOfMemoryError, match="planted"):
            optimizer.step()
    assert not optimizer.state
    assert_unchanged(optimizer, params, before)
