"""SGD's state, and what surrounds a step: groups, closures, hooks, autograd."""

import copy
import io
import pickle

import pytest
import torch
from compare import assert_bits_equal
from sgd import STEPS, VALID, buffers, clone_params, make_gradients, make_params, run, set_gradients
from torch import nn
from torch.optim import optimizer as optimizer_module

import gdext

# State.


@pytest.mark.parametrize("options", VALID)
def test_state_dict_goes_both_ways(device, options):
    """torch's for a quarter of the steps, ours, torch's again, ours again: one trajectory."""
    params = make_params(device, torch.float64)
    whole, gradients = clone_params(params), make_gradients(params, STEPS)
    reference = torch.optim.SGD(whole, 0.1, **options)
    run(reference, whole, gradients)
    optimizer = torch.optim.SGD(params, 0.7)
    optimizer = None
    for quarter in range(4):
        make = (torch.optim.SGD, gdext.optim.SGD)[quarter % 2]
        taken_over = make(params, **({"lr": 0.1, **options} if optimizer is None else {"lr": 0.5}))
        if optimizer is not None:
            stored = io.BytesIO()
            torch.save(optimizer.state_dict(), stored)
            stored.seek(0)
            taken_over.load_state_dict(torch.load(stored))
        optimizer = taken_over
        run(optimizer, params, gradients[quarter * 5 : quarter * 5 + 5])
    assert optimizer.state_dict().keys() == reference.state_dict().keys()
    assert optimizer.state_dict()["param_groups"] == reference.state_dict()["param_groups"]
    assert optimizer.state_dict()["state"].keys() == reference.state_dict()["state"].keys()
    for p, q in zip(params, whole, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


def test_state_with_empty_entries(device):
    """torch's unfused SGD of some releases stores None for a parameter without momentum."""
    params, gradients = make_params(device), None
    gradients = make_gradients(params, 1)
    state = torch.optim.SGD(params, 0.1, momentum=0.9).state_dict()
    state["state"] = {i: {"momentum_buffer": None} for i in range(len(params))}
    optimizer = gdext.optim.SGD(params, 0.1)
    optimizer.load_state_dict(state)
    run(optimizer, params, gradients)
    for buffer, g in zip(buffers(optimizer, params), gradients[0], strict=True):
        assert_bits_equal(buffer, g)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_deepcopy_and_pickle(device, clone):
    params = make_params(device)
    gradients = make_gradients(params, 4)
    optimizer = gdext.optim.SGD(params, 0.1, momentum=0.9)
    run(optimizer, params, gradients[:2])
    other = clone(optimizer)
    others = other.param_groups[0]["params"]
    assert type(other) is gdext.optim.SGD
    run(optimizer, params, gradients[2:])
    run(other, others, gradients[2:])
    for p, q in zip(params, others, strict=True):
        assert p is not q
        assert_bits_equal(p.detach(), q.detach())


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "dampening": 0.3}], ids=str)
def test_late_gradient(device, options):
    """A parameter whose first gradient arrives at the third step, and one that misses a step."""
    params = make_params(device, torch.float64)
    peers, gradients = clone_params(params), make_gradients(params, 6)
    optimizer, reference = (
        gdext.optim.SGD(params, 0.1, **options),
        torch.optim.SGD(peers, 0.1, **options),
    )
    for step, of_step in enumerate(gradients):
        for own, o in ((params, optimizer), (peers, reference)):
            set_gradients(own, of_step)
            if step < 2:
                own[0].grad = None
            if step == 4:
                own[1].grad = None
            o.step()
    for p, q in zip(params, peers, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


def test_no_gradients_at_all(device):
    optimizer = gdext.optim.SGD(make_params(device), 0.1, momentum=0.9)
    assert optimizer.step() is None
    assert not optimizer.state


# Around a step.


def test_closure(device):
    p = nn.Parameter(torch.full((3,), 2.0, device=device))
    optimizer = gdext.optim.SGD([p], 0.25)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 12.0
    assert p.tolist() == [1.0] * 3
    assert p.requires_grad
    assert p.grad_fn is None


def test_param_groups_with_options_of_their_own(device):
    params = make_params(device, torch.float64)
    peers, gradients = clone_params(params), make_gradients(params, 4)
    optimizers = []
    for own, make in ((params, gdext.optim.SGD), (peers, torch.optim.SGD)):
        optimizer = make(
            [
                {"params": own[:1], "weight_decay": 0.1, "maximize": True},
                {"params": own[1:3], "lr": 0.3},
            ],
            lr=0.1,
            momentum=0.9,
        )
        run(optimizer, own[:3], [of_step[:3] for of_step in gradients[:2]])
        optimizer.add_param_group({"params": own[3:], "momentum": 0.5, "nesterov": True})
        run(optimizer, own, gradients[2:])
        optimizers.append(optimizer)
    for p, q in zip(params, peers, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)
    assert optimizers[0].state_dict()["param_groups"] == optimizers[1].state_dict()["param_groups"]


def test_hooks(device):
    p = nn.Parameter(torch.zeros(2, device=device))
    p.grad = torch.ones_like(p)
    optimizer = gdext.optim.SGD([p], 1.0)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", p.tolist())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", p.tolist())))
    optimizer.step()
    assert seen == [("before", [0.0, 0.0]), ("after", [-1.0, -1.0])]


@pytest.mark.parametrize("before", [True, False])
def test_global_hooks(device, before):
    register = optimizer_module.register_optimizer_step_post_hook
    if before:
        register = optimizer_module.register_optimizer_step_pre_hook
    p = nn.Parameter(torch.zeros(2, device=device))
    p.grad = torch.ones_like(p)
    optimizer = gdext.optim.SGD([p], 1.0)
    seen = []
    handle = register(lambda *_: seen.append(p.tolist()))
    try:
        optimizer.step()
    finally:
        handle.remove()
    optimizer.step()
    assert seen == [[0.0, 0.0] if before else [-1.0, -1.0]]
    assert p.tolist() == [-2.0, -2.0]


def test_hook_changes_the_arguments(device):
    p = nn.Parameter(torch.zeros(2, device=device))
    optimizer = gdext.optim.SGD([p], 1.0)

    def closure():
        p.grad = torch.ones_like(p)
        return "computed"

    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((args[0], closure), kwargs))
    assert optimizer.step() == "computed"
    assert p.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("kind", [gdext.optim.SGD, type("Mine", (gdext.optim.SGD,), {})])
def test_profiler_sees_the_step(kind):
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.ones_like(p)
    optimizer = kind([p], 1.0)
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = [event.name for event in profile.function_events]
    assert names.count(f"Optimizer.step#{kind.__name__}.step") == 1
    assert names.count(f"Optimizer.zero_grad#{kind.__name__}.zero_grad") == 1
    assert p.grad is None


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(device, set_to_none):
    params = make_params(device)
    set_gradients(params[1:], make_gradients(params[1:], 1)[0])
    optimizer = gdext.optim.SGD([{"params": params[:2]}, {"params": params[2:]}], 0.1)
    optimizer.zero_grad(set_to_none)
    assert params[0].grad is None
    for p in params[1:]:
        if set_to_none:
            assert p.grad is None
        else:
            assert_bits_equal(p.grad, torch.zeros_like(p))


def test_autograd_notices_the_update(device):
    """A graph that saved the parameter before the step must refuse to go backward after it."""
    p = nn.Parameter(torch.ones(2, device=device))
    p.grad = torch.ones_like(p)
    loss = p.square().sum()
    gdext.optim.SGD([p], 0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_foreach_and_fused_are_accepted(device):
    for options in ({"foreach": True}, {"fused": True}, {"foreach": False, "fused": False}):
        p = nn.Parameter(torch.zeros(2, device=device))
        p.grad = torch.ones_like(p)
        gdext.optim.SGD([p], 1.0, **options).step()
        assert p.tolist() == [-1.0, -1.0]
