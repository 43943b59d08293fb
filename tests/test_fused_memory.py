"""Parameters, momenta and arguments of gdext.FusedTrainer that share memory, or lie in it with
gaps."""

import random

import pytest
import torch
from fused_runs import Pair, assert_refused, assert_unchanged, data, mlp, parts
from torch import nn

import gdext
from gdext._fused import call as fused_call
from gdext._fused.memory import Memory
from gdext.nn import CrossEntropyLoss

SIZES = [10, 10, 10]  # so that both weights may be columns of one tensor


def make(sizes=SIZES, loss=None):
    pair = Pair(mlp(*sizes), loss or CrossEntropyLoss())
    return pair, *data(sizes, 8, "mse" if isinstance(loss, nn.MSELoss) else "cross_entropy")


def columns(pair, first, second):
    wide = torch.randn(10, 20, dtype=torch.float64) * 0.3
    for i, part in enumerate((first, second)):
        pair.model[i].weight.data = wide[:, part]
        pair.twin.weights[i].data = wide[:, part].clone()
    return wide


def share_columns(pair):
    columns(pair, slice(0, 10), slice(5, 15))


def share_one_element(pair):
    wide = torch.randn(400, dtype=torch.float64)
    pair.model[0].weight.data = wide.as_strided((10, 10), (20, 2), 0)  # even addresses, to 198
    pair.model[1].weight.data = wide.as_strided((10, 10), (20, 2), 198)
    pair.model[0].bias.data = wide.as_strided((10,), (20,), 11)  # in the gaps: shared with none


def overlap_itself(pair):
    memory = torch.randn(19, dtype=torch.float64)
    pair.model[0].weight.data = memory.as_strided((10, 10), (1, 1))


def overlap_itself_with_gaps(pair):
    """As many addresses from the first to the last as there are elements."""
    memory = torch.randn(100, dtype=torch.float64)
    pair.model[0].weight.data = memory.as_strided((10, 10), (2, 9))


def share_with_momentum(pair):
    wide = columns(pair, slice(0, 10), slice(10, 20))
    pair.optimizer.state[pair.model[1].weight] = {"momentum_buffer": wide[:, 9:19]}


OWN = "wanted every element at an address of its own, got an overlapping tensor of shape"
SHARED = {
    share_columns: "1.weight: wanted memory of its own, got memory of 0.weight",
    share_one_element: "1.weight: wanted memory of its own, got memory of 0.weight",
    overlap_itself: f"0.weight: {OWN} [10, 10] with strides [1, 1]",
    overlap_itself_with_gaps: f"0.weight: {OWN} [10, 10] with strides [2, 9]",
    share_with_momentum: (
        "1.weight's momentum buffer: wanted memory of its own, got memory of 0.weight"
    ),
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("share", SHARED, ids=lambda f: f.__name__)
def test_overlapping(share, begun):
    pair, x, y = make()
    if begun:
        pair.trainer.run(x, y, 4)
    share(pair)
    before = parts(pair)
    for call in (lambda: pair.trainer.run(x, y, 4), lambda: pair.trainer.step(x, y)):
        assert_refused(call, ValueError, SHARED[share])
        assert_unchanged(pair, before)
    make_again = lambda: gdext.FusedTrainer(pair.model, pair.optimizer, pair.loss)  # noqa: E731
    assert_refused(make_again, ValueError, SHARED[share])


def test_between_one_another():
    """Weights and momenta in the gaps of others: nothing is shared."""
    pair, x, y = make()
    columns(pair, slice(0, 10), slice(10, 20))
    pair.assert_equal(*pair.run(x, y, 3))
    wide = torch.empty(20, 30, dtype=torch.float64)
    for i, layer in enumerate(pair.model):
        state = pair.optimizer.state[layer.weight]
        places = wide[i::2, 1::3], wide[i::2, 2::3]
        for place, t in zip(places, (layer.weight.data, state["momentum_buffer"]), strict=True):
            place.copy_(t)
        layer.weight.data, state["momentum_buffer"] = places
    pair.assert_equal(*pair.run(x, y, 3))


@pytest.mark.parametrize("what", ["expanded", "overlapping", "dtype"])
def test_another_view_at_the_same_address(what):
    """What was found to be good is looked at again once it is another tensor, at any address."""
    pair, x, y = make()
    pair.trainer.run(x, y, 4)
    w = pair.model[0].weight
    error = ValueError
    if what == "expanded":
        w.data = w.data[:1].expand(10, 10)
        text = "0.weight: wanted every element at an address of its own, got an expanded tensor of "
        text += "shape [10, 10] with strides [0, 1]"
    elif what == "overlapping":
        w.data = w.data.as_strided((10, 10), (1, 1))
        text = f"0.weight: {OWN} [10, 10] with strides [1, 1]"
    else:
        # All of them float32, at the addresses of before: the momenta no longer fit.
        for p in pair.model.parameters():
            p.data = p.data.view(torch.float32)[..., : p.shape[-1]]
        x = x.float()
        text = "optimizer: wanted 0.weight's momentum buffer of its dtype and shape, "
        text += "torch.float32 [10, 10], got torch.float64 [10, 10]"
    before = parts(pair)
    assert_refused(lambda: pair.trainer.run(x, y, 4), error, text)
    assert_unchanged(pair, before)


@pytest.mark.parametrize(
    ("buffer", "text"),
    [
        ([0.0], "of its dtype and shape, torch.float64 [10, 10], got list"),
        (
            torch.zeros(10, 10, dtype=torch.float64).to_sparse(),
            "dense and on cpu, got torch.sparse_coo on cpu",
        ),
        (
            torch.zeros(10, 10, dtype=torch.float64, device="meta"),
            "dense and on cpu, got torch.strided on meta",
        ),
    ],
    ids=["list", "sparse", "meta"],
)
def test_momentum_without_memory(buffer, text):
    pair, x, y = make()
    pair.optimizer.state[pair.model[0].weight] = {"momentum_buffer": buffer}
    text = f"optimizer: wanted 0.weight's momentum buffer {text}"
    assert_refused(lambda: pair.trainer.run(x, y, 4), ValueError, text)


def of_weight(pair):
    return pair.model[0].weight.data


def of_momentum(pair):
    return pair.optimizer.state[pair.model[0].weight]["momentum_buffer"]


ARGUMENTS = {
    "inputs": lambda t: {"inputs": t},
    "inputs, in part": lambda t: {"inputs": t.as_strided((10, 10), (9, 1))},
    "inputs that are copied": lambda t: {"inputs": t.t()},
    "inputs of bytes": lambda t: {"inputs": t.view(torch.uint8)[:, :10]},
    "targets": lambda t: {"targets": t},
    "lr": lambda t: {"lr": t.view(-1)[:3].abs_()},
    "order": lambda t: {"order": t[0].fill_(0).view(torch.int64)},
}


@pytest.mark.parametrize("of", [of_weight, of_momentum])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_in_memory_of_the_model(name, of):
    pair, x, y = make(loss=nn.MSELoss())
    pair.trainer.run(x, y, 4)
    given = {"inputs": x, "targets": y, "batch_size": 4, **ARGUMENTS[name](of(pair))}
    before = parts(pair)
    owner = "0.weight" if of is of_weight else "0.weight's momentum buffer"
    text = (
        f"{name.split()[0].strip(',')}: wanted memory of its own, since steps change the model's; "
        f"got memory of {owner}. Use clone()"
    )
    assert_refused(lambda: pair.trainer.run(**given), ValueError, text)
    assert_unchanged(pair, before)


def test_class_weights_and_learning_rates_in_memory_of_the_model():
    pair, x, y = make()
    text = "wanted memory of its own, since steps change the model's; got memory of 1.bias. "
    text += "Use clone()"
    pair.loss.weight = pair.model[1].bias.data
    assert_refused(lambda: pair.trainer.run(x, y, 4), ValueError, f"weight of the loss: {text}")
    pair.loss.weight = None
    pair.optimizer.param_groups[0]["lr"] = pair.model[1].bias.data[3].fill_(0.1)
    assert_refused(
        lambda: pair.trainer.run(x, y, 4), ValueError, f"optimizer.param_groups[0]['lr']: {text}"
    )


def test_arguments_between_parameters():
    pair, _, y = make()
    wide = torch.randn(10, 30, dtype=torch.float64) * 0.3
    for i, layer in enumerate(pair.model):
        layer.weight.data = wide[:, 10 * i : 10 * i + 10]
        pair.twin.weights[i].data = layer.weight.detach().clone()
    pair.assert_equal(*pair.run(wide[:8, 20:], y, 3))


def test_arguments_are_laid_out_once(monkeypatch):
    """The op copies what it cannot use as it is, in every call: it must find nothing to copy."""
    calls = []
    op = fused_call._mlp

    def observe(*args, class_weight, **named):
        inputs, targets, order = args[7:10]
        calls.append((inputs, targets, order, class_weight))
        return op(*args, class_weight=class_weight, **{**named, "seconds": 0.0})

    monkeypatch.setattr(fused_call, "_mlp", observe)
    weight = torch.rand(20, dtype=torch.float64)[::2]
    pair, x, y = make(loss=CrossEntropyLoss(weight))
    spread = torch.stack([y, y], 1)[:, 0]
    order = torch.arange(16)[::2] % 8
    pair.assert_equal(*pair.run(x.t().contiguous().t(), spread, 2, order=order))
    assert len(calls) > 2
    for inputs, targets, taken, of_classes in calls:
        assert inputs.stride(1) == 1
        assert all(t.is_contiguous() for t in (targets, taken, of_classes))
    assert len({tuple(t.data_ptr() for t in call) for call in calls}) == 1


def addresses(t, base):
    """By a loop over the elements."""
    offsets = [0]
    for n, stride in zip(t.shape, t.stride(), strict=True):
        offsets = [o + i * stride for o in offsets for i in range(n)]
    first = t.data_ptr() - base.data_ptr()
    return [first + o * t.itemsize + byte for o in offsets for byte in range(t.itemsize)]


def view(rng, base):
    """A view of bytes of `base`, of any dtype, with any strides that fit."""
    dtype = rng.choice([torch.uint8, torch.float32, torch.float64])
    start = rng.randrange(0, 64, dtype.itemsize)
    t = base[start:].view(dtype)
    shape = [rng.randint(1, 4) for _ in range(rng.choice([1, 2]))]
    strides = [rng.randint(0 if n == 1 else 1, 7) for n in shape]
    reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    return t.as_strided(shape, strides) if reach <= t.numel() else view(rng, base)


def test_overlaps_are_those_of_the_addresses():
    rng = random.Random(7)
    base = torch.zeros(128, dtype=torch.uint8)
    seen = set()
    for _ in range(3000):
        tensors = [view(rng, base) for _ in range(rng.randint(1, 3))]
        places = [addresses(t, base) for t in tensors]
        everything = [a for place in places for a in place]
        apart = len(set(everything)) == len(everything)
        try:
            memory = Memory((str(i), t) for i, t in enumerate(tensors))
        except ValueError:
            assert not apart, [(t.shape, t.stride(), t.data_ptr()) for t in tensors]
            continue
        assert apart, [(t.shape, t.stride(), t.data_ptr()) for t in tensors]
        other = view(rng, base)
        owner = memory.owner(other)
        shared = {str(i) for i, place in enumerate(places) if {*place} & {*addresses(other, base)}}
        assert owner in shared if shared else owner is None
        seen.add((len(tensors), bool(shared)))
    assert seen >= {(n, shared) for n in (1, 2) for shared in (True, False)}
