"""gdext.optim.SGD on the inputs that PyTorch tests its own SGD with, beside torch.optim.SGD."""

import copy
import functools
import re
import warnings

import pytest
import torch
from pytorch_material import SGD_INFO, Case, exclusion, sgd_options
from sgd import (
    DTYPES,
    assert_steps_as_accurate,
    assert_unchanged,
    buffers,
    clone_params,
    make_gradients,
    make_params,
    run,
    set_gradients,
    snapshot,
)

import gdext


def applicable_options(device, dtype):
    options = [
        given
        for given in sgd_options(device, dtype)
        if exclusion(Case("SGD", "input", dtype, given)) is None
    ]
    assert len(options) >= 2 * len(SGD_INFO.optim_inputs_func(device, dtype))
    return options


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs(device, dtype):
    """Parameters and momentum buffers of each step, by compare.assert_as_accurate."""
    for options in applicable_options(device, dtype):
        params, make, options = make_params(device, dtype), gdext.optim.SGD, {"lr": 1e-3, **options}
        if options.get("fused") and dtype == torch.float16 and device == "cpu":
            # PyTorch 2.13's fused SGD leaves numbers in the momentum buffer that are off by up to
            # infinity there: its unfused one is the peer.
            make = functools.partial(make, fused=options.pop("fused"))
        assert_steps_as_accurate(make, params, options, steps=4)


def test_trajectories(device):
    """20 steps in float64: to 1e-13, and the same state_dict but for the numbers."""
    for options in applicable_options(device, torch.float64):
        params = make_params(device, torch.float64)
        peers, gradients = clone_params(params), make_gradients(params, 20)
        optimizer = gdext.optim.SGD(params, **copy.deepcopy(options))
        reference = torch.optim.SGD(peers, **copy.deepcopy(options))
        run(optimizer, params, gradients)
        run(reference, peers, gradients)
        pairs = list(zip(params, peers, strict=True))
        if options.get("momentum"):
            pairs += zip(buffers(optimizer, params), buffers(reference, peers), strict=True)
        for got, want in pairs:
            torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)
        states = [o.state_dict() for o in (optimizer, reference)]
        assert states[0]["param_groups"] == states[1]["param_groups"]
        assert states[0]["state"].keys() == states[1]["state"].keys()


@pytest.mark.filterwarnings("error")  # torch warns where it does not see the steps
@pytest.mark.parametrize("schedule", range(len(SGD_INFO.scheduler_inputs)))
def test_schedulers(device, schedule):
    params = make_params(device, torch.float64)
    gradients = make_gradients(params, 24)
    runs = []
    for make in (gdext.optim.SGD, torch.optim.SGD):
        own = clone_params(params)
        optimizer = make(own, 0.1, momentum=0.9)
        schedulers = [make_one(optimizer) for make_one in SGD_INFO.scheduler_inputs[schedule]]
        rates = []
        for of_step in gradients:
            run(optimizer, own, [of_step])
            for scheduler in schedulers:
                if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                    scheduler.step(1.0)  # no better than before: it takes lr down, too
                else:
                    scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        runs.append((own, rates))
    (got, got_rates), (want, rates) = runs
    assert got_rates == rates and len(set(rates)) > 1
    for p, q in zip(got, want, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_inputs(device, dtype):
    """The type and the message that PyTorch expects of its own optimizer."""
    errors = SGD_INFO.optim_error_inputs_func(device, dtype)
    if not errors:
        pytest.skip(f"PyTorch has error inputs for the CPU alone, none for {device}")
    for error in errors:
        given = error.optimizer_error_input
        params = make_params(device, dtype) if given.params is None else given.params
        assert error.error_on.name == "CONSTRUCTION_ERROR"
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # one of them is a warning
            with pytest.raises(error.error_type) as raised:
                gdext.optim.SGD(params, **given.kwargs)
        assert raised.type is error.error_type
        assert re.search(error.error_regex, str(raised.value)), raised.value


def test_differentiable_is_refused():
    refused = [
        given
        for given in sgd_options("cpu", torch.float32)
        if exclusion(Case("SGD", "input", torch.float32, given)) == "differentiable"
    ]
    assert refused
    for options in refused:
        with pytest.raises(RuntimeError, match=r"differentiable: .* use torch.optim.SGD"):
            gdext.optim.SGD(make_params("cpu"), **options)


def test_sparse_gradients_are_refused(device):
    """With the options and schedulers that PyTorch tests sparse gradients with."""
    options, schedulers = SGD_INFO.metadata_for_sparse
    params = make_params(device, shapes=[(4, 5)])
    optimizer = gdext.optim.SGD(params, **options)
    for make_one in schedulers:
        make_one(optimizer)
    set_gradients(params, make_gradients(params, 1)[0])
    before = snapshot(optimizer, params)
    params[0].grad = params[0].grad.to_sparse()
    with pytest.raises(RuntimeError, match=r"\.grad: wanted a dense gradient"):
        optimizer.step()
    params[0].grad = params[0].grad.to_dense()
    assert_unchanged(optimizer, params, before)
