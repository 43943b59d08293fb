"""The SGD update against torch.optim.SGD: numbers, state, errors, and everything around a step."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from compare import assert_as_accurate, assert_bits_equal
from torch import nn

import gdext

STEPS = 20
SHAPES = [(4, 5), (5,), (), (0, 3), (2, 3, 4)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

COMBINATIONS = [
    pytest.param(
        {
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        },
        id=f"momentum{momentum}-dampening{dampening}-decay{weight_decay}"
        + "-nesterov" * nesterov
        + "-maximize" * maximize,
    )
    for momentum, dampening, weight_decay, nesterov, maximize in itertools.product(
        (0, 0.9), (0, 0.3), (0, 0.01), (False, True), (False, True)
    )
]
VALID = [
    c
    for c in COMBINATIONS
    if not c.values[0]["nesterov"] or c.id.startswith("momentum0.9-dampening0-")
]
INVALID = [c for c in COMBINATIONS if c not in VALID]


def make_params(device, dtype=torch.float32, shapes=SHAPES):
    return [
        nn.Parameter(torch.randn(shape, dtype=torch.float64).to(device, dtype)) for shape in shapes
    ]


def clone_params(params, dtype=None):
    return [nn.Parameter(p.detach().clone().to(dtype or p.dtype)) for p in params]


def make_gradients(params, steps):
    """One gradient for each parameter at each step."""
    return [[torch.randn_like(p) for p in params] for _ in range(steps)]


def set_gradients(params, gradients):
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.to(p.dtype, copy=True)


def run(optimizer, params, gradients):
    for of_step in gradients:
        set_gradients(params, of_step)
        optimizer.step()


def buffers(optimizer, params):
    return [optimizer.state[p]["momentum_buffer"] for p in params]


def snapshot(optimizer, params):
    state = [optimizer.state.get(p, {}).get("momentum_buffer") for p in params]
    return copy.deepcopy([[p.detach() for p in params], [p.grad for p in params], state])


def assert_unchanged(optimizer, params, before):
    for got, want in zip(snapshot(optimizer, params), before, strict=True):
        for g, w in zip(got, want, strict=True):
            if w is None:
                assert g is None
            else:
                assert_bits_equal(g, w)


def assert_steps_as_accurate(make_optimizer, params, options, steps=STEPS):
    """Each of `steps` steps, taken from where torch's trajectory in this dtype stands: parameters and
    momentum buffers come out as near to float64's as torch's do (compare.assert_as_accurate).

    Step by step, because the roundings of 16-bit parameters add up to a random walk, in which the
    better arithmetic may well end further away.
    """
    peers = clone_params(params)
    reference = torch.optim.SGD(peers, **options)
    for step, gradients in enumerate(make_gradients(params, steps)):
        runs = []
        for make, dtype in ((make_optimizer, None), (torch.optim.SGD, torch.float64)):
            own = clone_params(peers, dtype)
            optimizer = make(own, **options)
            state = copy.deepcopy(reference.state_dict()["state"])  # loading alone would share it
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            run(optimizer, own, [gradients])
            runs.append((optimizer, own))
        terms = [p.detach().abs() + g.abs() for p, g in zip(peers, gradients, strict=True)]
        if step and options.get("momentum"):
            terms = [t + b.abs() for t, b in zip(terms, buffers(reference, peers), strict=True)]
        run(reference, peers, [gradients])
        (optimizer, got), (exact_optimizer, exact) = runs
        for i, (g, p, e, t) in enumerate(zip(got, peers, exact, terms, strict=True)):
            assert_as_accurate(g.detach(), p.detach(), e, t, name=f"step {step}, params[{i}]")
        if options.get("momentum"):
            triples = zip(
                *(
                    buffers(*of)
                    for of in ((optimizer, got), (reference, peers), (exact_optimizer, exact))
                ),
                strict=True,
            )
            for i, (triple, t) in enumerate(zip(triples, terms, strict=True)):
                assert_as_accurate(*triple, t, name=f"step {step}, momentum_buffers[{i}]")


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["lr", "tensor_lr"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", VALID)
def test_steps_match_torch(device, dtype, options, tensor_lr):
    lr = torch.tensor(0.1, dtype=torch.float64, device=device) if tensor_lr else 0.1
    params = make_params(device, dtype)
    assert_steps_as_accurate(gdext.optim.SGD, params, {"lr": lr, **options})


@pytest.mark.parametrize("options", VALID)
def test_trajectory_matches_torch(device, options):
    params = make_params(device, torch.float64)
    peers = clone_params(params)
    gradients = make_gradients(params, STEPS)
    run(gdext.optim.SGD(params, 0.1, **options), params, gradients)
    run(torch.optim.SGD(peers, 0.1, **options), peers, gradients)
    for p, peer in zip(params, peers, strict=True):
        torch.testing.assert_close(p, peer, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", INVALID)
def test_nesterov_needs_momentum_and_no_dampening(options):
    with pytest.raises(
        ValueError, match="Nesterov momentum requires a momentum and zero dampening"
    ):
        gdext.optim.SGD(make_params("cpu"), 0.1, **options)


def planted(**fault):
    """gdext.optim.SGD that steps with other options than it was asked for."""

    def make(params, **options):
        changed = {name: change(options[name]) for name, change in fault.items()}
        return gdext.optim.SGD(params, **{**options, **changed})

    return make


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "fault",
    [
        {"nesterov": lambda value: not value},
        {"maximize": lambda value: not value},
        {"weight_decay": lambda _: 0.0},
        {"momentum": lambda value: 0.9 * value},
        {"lr": lambda value: 1.5 * value},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_comparison_sees_planted_faults(device, dtype, fault):
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "nesterov": True, "maximize": False}
    params = make_params(device, dtype)
    assert_steps_as_accurate(gdext.optim.SGD, params, options)
    with pytest.raises(AssertionError, match="params|momentum_buffers"):
        assert_steps_as_accurate(planted(**fault), params, options)


def test_comparison_sees_dampening(device):
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}
    with pytest.raises(AssertionError, match="params|momentum_buffers"):
        assert_steps_as_accurate(planted(dampening=lambda _: 0.29), make_params(device), options)


def test_dampening_near_one_keeps_its_digits(device):
    options = {"lr": 0.1, "momentum": 0.5, "dampening": 1 - 1e-6}
    params = make_params(device)
    exact, gradients = clone_params(params, torch.float64), make_gradients(params, 2)
    optimizer, reference = gdext.optim.SGD(params, **options), torch.optim.SGD(exact, **options)
    gradients[0] = [torch.zeros_like(g) for g in gradients[0]]  # m is then (1 - dampening) g alone
    run(optimizer, params, gradients)
    run(reference, exact, gradients)
    for got, want in zip(buffers(optimizer, params), buffers(reference, exact), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_result_does_not_depend_on_the_split(device, dtype):
    """Each element by itself, one tensor of all elements, one thread or many: the same bits."""
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}
    whole = make_params(device, dtype, [(70_001,)])
    pieces = [nn.Parameter(piece.clone()) for piece in whole[0].detach().split(997)]
    alone = [nn.Parameter(whole[0].detach().clone())]
    gradients = make_gradients(whole, 3)
    run(gdext.optim.SGD(whole, **options), whole, gradients)
    run(gdext.optim.SGD(pieces, **options), pieces, [g[0].split(997) for g in gradients])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(gdext.optim.SGD(alone, **options), alone, gradients)
    finally:
        torch.set_num_threads(threads)
    assert_bits_equal(torch.cat([p.detach() for p in pieces]), whole[0].detach())
    assert_bits_equal(alone[0].detach(), whole[0].detach())


def test_small_integers_are_exact(device):
    """Powers of two throughout: every backend and instruction set must agree bit for bit."""
    params = [nn.Parameter(torch.randint(-8, 9, (37,), device=device).float())]
    peers = clone_params(params)
    gradients = [[torch.randint(-8, 9, (37,), device=device).float()] for _ in range(4)]
    options = {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.25, "nesterov": True}
    run(gdext.optim.SGD(params, **options), params, gradients)
    run(torch.optim.SGD(peers, **options), peers, gradients)
    assert_bits_equal(params[0].detach(), peers[0].detach())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinity_come_out_where_torch_has_them(device, dtype):
    special = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan")]
    p, g = (
        torch.tensor(v, device=device, dtype=dtype)
        for v in zip(*itertools.product(special, special))
    )
    for options in ({}, {"momentum": 0.9, "weight_decay": 0.1}):
        got, peer = [nn.Parameter(p.clone())], [nn.Parameter(p.clone())]
        run(gdext.optim.SGD(got, 0.1, **options), got, [[g]] * 2)
        run(torch.optim.SGD(peer, 0.1, **options), peer, [[g]] * 2)
        exact = peer[0].detach().double()
        assert_as_accurate(got[0].detach(), peer[0].detach(), exact)


def test_many_tensors(device):
    shapes = [(n % 7, n % 3 + 1) for n in range(1000)]
    assert_steps_as_accurate(
        gdext.optim.SGD,
        make_params(device, shapes=shapes),
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        steps=2,
    )


# Schedules.

SCHEDULES = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
    "warm restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 7),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, STEPS),  # momentum too
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
}


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["lr", "tensor_lr"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.filterwarnings("error")  # torch warns where it does not see the steps
def test_schedulers(device, schedule, tensor_lr):
    trajectories = []
    params = make_params(device, torch.float64)
    gradients = make_gradients(params, STEPS)
    for make in (gdext.optim.SGD, torch.optim.SGD):
        own = clone_params(params)
        lr = torch.tensor(0.1, dtype=torch.float64, device=device) if tensor_lr else 0.1
        optimizer = make(own, lr, momentum=0.9)
        scheduler = SCHEDULES[schedule](optimizer)
        rates = []
        for of_step in gradients:
            run(optimizer, own, [of_step])
            scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
        trajectories.append((own, rates))
    (got, got_rates), (want, rates) = trajectories
    assert got_rates == rates
    assert len(set(rates)) > 1
    for p, q in zip(got, want, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


def test_lr_tensor_may_be_of_any_dtype_and_on_the_cpu(device):
    for lr in (torch.tensor(0.25), torch.tensor([0.25], dtype=torch.bfloat16, device=device)):
        params = make_params(device)
        want = [p.detach() - 0.25 for p in params]
        run(gdext.optim.SGD(params, lr), params, [[torch.ones_like(p) for p in params]])
        for p, w in zip(params, want, strict=True):
            assert_bits_equal(p.detach(), w)


# GradScaler.


def scaled_steps(make, params, gradients, device, **options):
    """Steps through a GradScaler; a gradient with an infinity makes it skip one."""
    optimizer = make(params, lr=0.1, **options)
    scaler = torch.amp.GradScaler(device, init_scale=256.0, growth_interval=3)
    scales = []
    for of_step in gradients:
        set_gradients(params, [g * scaler.get_scale() for g in of_step])
        scaler.scale(torch.ones((), device=device))  # makes the scaler's tensors
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return optimizer, scales


SKIPPED = [(0,), (0, 1, 5), (3,), (3, 4, 19), ()]


@pytest.mark.parametrize("skipped", SKIPPED, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("unscale_first", [False, True], ids=["", "unscale_first"])
def test_grad_scaler(device, options, skipped, unscale_first):
    """As torch's unfused SGD, whose step the scaler simply does not call when it finds an infinity."""
    params = make_params(device)
    gradients = make_gradients(params, STEPS)
    for step in skipped:
        gradients[step][1][2] = float("inf")
    runs = []
    for make in (gdext.optim.SGD, torch.optim.SGD):
        own = clone_params(params)
        optimizer, scales = scaled_steps(make, own, gradients, device, **options)
        runs.append((own, optimizer, scales))
    (got, optimizer, scales), (want, reference, wanted_scales) = runs
    assert scales == wanted_scales
    tensors = list(zip(got, want, strict=True))
    if options:
        tensors += zip(buffers(optimizer, got), buffers(reference, want), strict=True)
    for p, q in tensors:
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_grad_scaler_stores_unscaled_gradients(device):
    params = make_params(device)
    gradients = make_gradients(params, 1)
    scaled_steps(gdext.optim.SGD, params, gradients, device)
    for p, g in zip(params, gradients[0], strict=True):
        assert_bits_equal(p.grad, g)  # the scale is a power of two


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_skipped_first_step_leaves_no_trace(device, momentum):
    params = make_params(device)
    before = clone_params(params)
    gradients = make_gradients(params, 1)
    gradients[0][0][0, 0] = float("nan")
    optimizer, _ = scaled_steps(
        gdext.optim.SGD, params, gradients, device, momentum=momentum, dampening=0.3
    )
    assert not optimizer.state
    for p, b in zip(params, before, strict=True):
        assert_bits_equal(p.detach(), b.detach())


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


# Memory layouts.


def transposed(shape, device):
    return torch.randn(shape[::-1], device=device).permute(*range(len(shape))[::-1])


def every_other(shape, device):
    return torch.randn(*shape[:-1], 2 * shape[-1], device=device)[..., ::2]


def channels_last(shape, device):
    return torch.randn(shape, device=device).to(memory_format=torch.channels_last)


LAYOUTS = {
    "contiguous": lambda shape, device: torch.randn(shape, device=device),
    "transposed": transposed,
    "every other": every_other,
    "channels last": channels_last,
}


@pytest.mark.parametrize("buffer_layout", [None, *LAYOUTS])
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("param_layout", LAYOUTS)
def test_layouts(device, param_layout, grad_layout, buffer_layout):
    shape = (2, 3, 4, 5)
    p = LAYOUTS[param_layout](shape, device)
    p = nn.Parameter(p)
    peer = nn.Parameter(p.detach().contiguous().clone())
    strides = p.stride()
    storage = p.detach().as_strided((p.untyped_storage().nbytes() // 4,), (1,), 0)
    gaps = storage.clone()
    optimizer, reference = (
        make([q], 0.1, momentum=0.9) for make, q in ((gdext.optim.SGD, p), (torch.optim.SGD, peer))
    )
    for step in range(3):
        g = LAYOUTS[grad_layout](shape, device)
        p.grad, peer.grad = g, g.contiguous().clone()
        if step == 1 and buffer_layout:
            laid_out = LAYOUTS[buffer_layout](shape, device)
            laid_out.copy_(optimizer.state[p]["momentum_buffer"])
            optimizer.state[p]["momentum_buffer"] = laid_out
        optimizer.step()
        reference.step()
    assert p.stride() == strides
    torch.testing.assert_close(p.detach(), peer.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        optimizer.state[p]["momentum_buffer"],
        reference.state[peer]["momentum_buffer"],
        rtol=1e-6,
        atol=1e-6,
    )
    untouched = torch.ones_like(storage, dtype=torch.bool)
    untouched.as_strided(shape, strides).fill_(False)
    assert_bits_equal(storage[untouched], gaps[untouched], name="memory between the elements")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unscaled_gradient_is_stored_back_in_any_layout(device, layout):
    p = nn.Parameter(torch.randn(2, 3, 4, 5, device=device))
    p.grad = LAYOUTS[layout](p.shape, device)
    want = p.grad / 8
    optimizer = gdext.optim.SGD([p], 0.1)
    optimizer.grad_scale = torch.tensor(8.0, device=device)
    optimizer.found_inf = torch.tensor(0.0, device=device)
    optimizer.step()
    assert_bits_equal(p.grad, want)


def test_expanded_gradient(device):
    p = nn.Parameter(torch.zeros(3, 4, device=device))
    p.grad = torch.ones((), device=device).expand(3, 4)
    gdext.optim.SGD([p], 1.0).step()
    assert_bits_equal(p.detach(), -torch.ones(3, 4, device=device))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("conjugate", [False, True], ids=["", "conjugate"])
def test_complex_parameters(device, dtype, conjugate):
    p = nn.Parameter(torch.randn(3, 4, dtype=dtype, device=device))
    q = nn.Parameter(p.detach().clone())
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    optimizer, reference = gdext.optim.SGD([p], **options), torch.optim.SGD([q], **options)
    for _ in range(3):
        g = torch.randn_like(p)
        p.grad, q.grad = (g.conj(), g.conj()) if conjugate else (g, g)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        *(o.state_dict()["state"][0]["momentum_buffer"] for o in (optimizer, reference))
    )


def test_mixed_dtypes_in_one_group(device):
    """As each dtype by itself, whatever the order."""
    params = [p for _ in range(2) for dtype in DTYPES for p in make_params(device, dtype)]
    apart, gradients = clone_params(params), make_gradients(params, 2)
    run(gdext.optim.SGD(params, 0.1, momentum=0.9), params, gradients)
    for dtype in DTYPES:
        mine = [i for i, p in enumerate(apart) if p.dtype == dtype]
        own = [apart[i] for i in mine]
        optimizer = gdext.optim.SGD(own, 0.1, momentum=0.9)
        run(optimizer, own, [[of_step[i] for i in mine] for of_step in gradients])
    for p, q in zip(params, apart, strict=True):
        assert_bits_equal(p.detach(), q.detach())


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


def test_profiler_sees_the_step():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.ones_like(p)
    optimizer = gdext.optim.SGD([p], 1.0)
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
    names = [event.name for event in profile.function_events]
    assert names.count("Optimizer.step#SGD.step") == 1


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


# Errors: their text, and that nothing was changed.

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
    with pytest.raises(ValueError) as error:  # noqa: PT011
        optimizer.step()
    assert str(error.value) == text
    assert_unchanged(optimizer, params, before)


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
    text = "param_groups[1]['params'][0].grad: wanted a dense gradient (layout torch.strided), got torch.sparse_coo"
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
    name = "momentum_buffers[1]" if groups == 1 else "momentum_buffers[0] of param_groups[1]"
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
    text = "params[0]: wanted dtype float32, float64, bfloat16 or float16, got Int"
    assert_step_refused(optimizer, optimizer.param_groups[0]["params"], RuntimeError, text)


# The op.


def op_arguments(device, momentum=0.9, **changed):
    params, grads, momentum_buffers = (
        [torch.randn(4, 5, device=device), torch.randn(3, device=device)] for _ in range(3)
    )
    arguments = {
        "params": params,
        "grads": grads,
        "momentum_buffers": momentum_buffers if momentum else [],
        "first": [False, True] if momentum else [],
        "lr": 0.1,
        "lr_tensor": None,
        "momentum": momentum,
        "dampening": 0.0,
        "weight_decay": 0.01,
        "nesterov": False,
        "maximize": False,
        "grad_scale": None,
        "found_inf": None,
    }
    return {**arguments, **changed}


def test_opcheck(device):
    scale, skip = torch.tensor(4.0, device=device), torch.tensor(0.0, device=device)
    for changed in (
        {},
        {"momentum": 0.0},
        {"grad_scale": scale, "found_inf": skip},
        {"lr_tensor": torch.tensor(0.5, device=device), "nesterov": True},
    ):
        arguments = op_arguments(device, **changed)
        positional = [
            arguments.pop(name) for name in ("params", "grads", "momentum_buffers", "first")
        ]
        torch.library.opcheck(torch.ops.gdext.sgd_.default, positional, arguments)


def test_found_inf_writes_nothing(device):
    arguments = op_arguments(
        device,
        grad_scale=torch.tensor(2.0, device=device),
        found_inf=torch.tensor(1.0, device=device),
    )
    before = copy.deepcopy(arguments)
    torch.ops.gdext.sgd_(**arguments)
    for name in ("params", "grads", "momentum_buffers"):
        for got, want in zip(arguments[name], before[name], strict=True):
            assert_bits_equal(got, want, name)


def expanded(*shape):
    return lambda device: torch.zeros((), device=device).expand(shape)


OP_ERRORS = {
    "grads too few": (
        lambda device: {"grads": [torch.zeros(4, 5, device=device)]},
        ValueError,
        "grads: wanted 2 elements (one for each of params), got 1",
    ),
    "momentum_buffers without momentum": (
        lambda device: {"momentum": 0.0, "momentum_buffers": [torch.zeros(4, 5, device=device)]},
        ValueError,
        "momentum_buffers: wanted 0 elements (momentum is 0), got 1",
    ),
    "first too many": (
        lambda _: {"first": [True] * 3},
        ValueError,
        "first: wanted 2 elements (one for each of params), got 3",
    ),
    "shape": (
        lambda device: {"grads": [torch.zeros(4, 5, device=device), torch.zeros(4, device=device)]},
        RuntimeError,
        "grads[1]: wanted shape [3] (that of params[1]), got [4]",
    ),
    "dtype": (
        lambda device: {
            "grads": [torch.zeros(4, 5, device=device).double(), torch.zeros(3, device=device)]
        },
        RuntimeError,
        "grads[0]: wanted dtype float32 (that of params[0]), got float64",
    ),
    "expanded parameter": (
        lambda device: {
            "params": [torch.zeros(5, device=device).expand(4, 5), torch.zeros(3, device=device)]
        },
        RuntimeError,
        "params[0]: wanted every element at an address of its own, got an expanded tensor of shape"
        " [4, 5] with strides [0, 1]",
    ),
    "lr": (lambda _: {"lr": float("nan")}, ValueError, "lr: wanted a finite number >= 0, got nan"),
    "negative lr": (
        lambda _: {"lr": -1.5},
        ValueError,
        "lr: wanted a finite number >= 0, got -1.5",
    ),
    "momentum": (
        lambda _: {"momentum": -0.5},
        ValueError,
        "momentum: wanted a finite number >= 0, got -0.5",
    ),
    "dampening": (
        lambda _: {"dampening": float("inf")},
        ValueError,
        "dampening: wanted a finite number, got inf",
    ),
    "weight_decay": (
        lambda _: {"weight_decay": float("nan")},
        ValueError,
        "weight_decay: wanted a finite number >= 0, got nan",
    ),
    "nesterov": (
        lambda _: {"nesterov": True, "dampening": 0.5},
        ValueError,
        "nesterov: wanted momentum > 0 and dampening == 0, got momentum 0.9 and dampening 0.5",
    ),
    "lr_tensor": (
        lambda device: {"lr_tensor": torch.ones(2, device=device)},
        RuntimeError,
        "lr_tensor: wanted one element, got shape [2]",
    ),
    "grad_scale": (
        lambda device: {"grad_scale": torch.ones(0, device=device)},
        RuntimeError,
        "grad_scale: wanted one element, got shape [0]",
    ),
    "found_inf": (
        lambda device: {"found_inf": torch.ones(1, 2, device=device)},
        RuntimeError,
        "found_inf: wanted one element, got shape [1, 2]",
    ),
}


@pytest.mark.parametrize("case", OP_ERRORS)
def test_op_errors(device, case):
    change, error_type, text = OP_ERRORS[case]
    arguments = op_arguments(device)
    arguments.update(change(device))
    before = copy.deepcopy(arguments)
    with pytest.raises(error_type) as error:
        torch.ops.gdext.sgd_(**arguments)
    assert str(error.value) == text
    for name in ("params", "grads", "momentum_buffers"):
        for got, want in zip(arguments[name], before[name], strict=True):
            assert_bits_equal(got, want, name)


def test_op_needs_one_device(device):
    if device == "cpu":
        pytest.skip("needs two devices")
    arguments = op_arguments(device)
    arguments["grads"][0] = arguments["grads"][0].cpu()
    with pytest.raises(RuntimeError) as error:
        torch.ops.gdext.sgd_(**arguments)
    assert str(error.value) == "grads[0]: wanted device cuda:0 (that of params[0]), got cpu"
