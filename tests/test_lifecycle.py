"""gdext's parts copied, saved, shared between processes and threads, and run for long."""

import copy
import io
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from compare import assert_bits_equal
from torch import nn

import gdext

SIZES = (24, 32, 5)
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


def batch(samples=48, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, SIZES[0], generator=generator)
    return x, torch.randint(SIZES[-1], (samples,), generator=generator)


def make(kinds=gdext, seed=3):
    """A model and its optimizer, of gdext or of torch."""
    torch.manual_seed(seed)
    if kinds is gdext:
        model = gdext.nn.MLP(SIZES)
    else:
        first, second = nn.Linear(*SIZES[:2]), nn.Linear(*SIZES[1:])
        model = nn.Sequential()  # with the names of an MLP's layers
        model.add_module("0", nn.Sequential(first, nn.ReLU()))
        model.add_module("1", second)
        model.state_dict = lambda: {
            f"{i}.{name}": t
            for i, layer in enumerate((first, second))
            for name, t in layer.state_dict().items()
        }
        model.load_state_dict = lambda state: [
            layer.load_state_dict({n[2:]: t for n, t in state.items() if n[0] == str(i)})
            for i, layer in enumerate((first, second))
        ]
    return model, kinds.optim.SGD(model.parameters(), **SGD)


def train(model, optimizer, steps=5, seed=1):
    x, y = batch(seed=seed)
    loss = gdext.nn.CrossEntropyLoss()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()


def train_fused(model, optimizer, epochs=5, seed=1):
    trainer = gdext.FusedTrainer(model, optimizer, gdext.nn.CrossEntropyLoss())
    for _ in range(epochs):
        trainer.run(*batch(seed=seed), 16)
    return trainer


def assert_same_models(got, want):
    for p, q in zip(got.parameters(), want.parameters(), strict=True):
        assert_bits_equal(p.detach(), q.detach())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_model_and_optimizer_together_stay_together(clone):
    """The copied optimizer updates the copied model's parameters."""
    model, optimizer = make()
    train(model, optimizer)
    twin, twin_optimizer = clone((model, optimizer))
    train(model, optimizer)
    train(twin, twin_optimizer)
    assert_same_models(twin, model)
    loss = clone(gdext.nn.CrossEntropyLoss(weight=torch.ones(5), label_smoothing=0.1))
    assert type(loss) is gdext.nn.CrossEntropyLoss and loss.label_smoothing == 0.1


@pytest.mark.parametrize("source", [gdext, torch], ids=["from gdext", "from torch"])
@pytest.mark.parametrize("target", [gdext, torch], ids=["to gdext", "to torch"])
def test_save_and_load_weights_only(source, target):
    """One training that goes on in the parts of the other."""
    model, optimizer = make(source)
    train(model, optimizer)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, other_optimizer = make(target, seed=4)
    other.load_state_dict(saved["model"])
    other_optimizer.load_state_dict(saved["optimizer"])
    train(model, optimizer)
    train(other, other_optimizer)
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def in_a_process(code, *arguments):
    """What a fresh Python prints, which must end well in two minutes."""
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(Path(gdext.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


HOGWILD = """
import sys, torch, test_lifecycle as life
import torch.multiprocessing as processes
if __name__ == "__main__":
    kind, how = sys.argv[1:]
    torch.set_num_threads(2)
    life.work(*life.make(), how)  # before the fork: threads are there
    model, optimizer = life.make()
    model.share_memory()
    assert all(p.is_shared() for p in model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    context = processes.get_context(kind)
    workers = [context.Process(target=life.work_on, args=(model, how)) for _ in "12"]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
        assert w.exitcode == 0, w.exitcode
    life.work(model, optimizer, how)
    loss = float(torch.nn.functional.cross_entropy(model(life.batch()[0]), life.batch()[1]))
    moved = [float((p - b).abs().max()) for p, b in zip(model.parameters(), before)]
    print("moved" if min(moved) > 0 else moved, "learnt" if loss < 1.5 else loss)
"""


def work(model, optimizer, how):
    (train if how == "layers" else train_fused)(model, optimizer, 20)
    # Large enough for gdext's threads, of which a forked process must have its own, but not for
    # those of torch.ones, which hang there.
    big, x = gdext.nn.Linear(1024, 128, activation="relu"), torch.ones(31, 1024)
    big(x).sum().backward()
    big = gdext.nn.MLP([256, 256, 10])
    optimizer = gdext.optim.SGD(big.parameters(), lr=0.01)
    trainer = gdext.FusedTrainer(big, optimizer, gdext.nn.CrossEntropyLoss())
    trainer.run(torch.ones(64, 256), torch.zeros(64, dtype=torch.int64), 32)


def work_on(model, how):
    torch.set_num_threads(2)
    work(model, gdext.optim.SGD(model.parameters(), lr=0.05, momentum=0.5), how)


@pytest.mark.parametrize("kind", ["fork", "spawn"])
@pytest.mark.parametrize("how", ["layers", "fused"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_processes_train_shared_parameters(kind, how):
    """Hogwild, with processes made after gdext has been at work on two threads."""
    assert in_a_process(HOGWILD, kind, how) == ["moved", "learnt"]


@pytest.mark.parametrize("how", [train, train_fused])
def test_threads_train_different_models(how):
    alone = [make(seed=seed) for seed in range(4)]
    for seed, pair in enumerate(alone):
        how(*pair, 30, seed=seed)
    together = [make(seed=seed) for seed in range(4)]
    failures = []

    def run(seed):
        try:
            how(*together[seed], 30, seed=seed)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not failures
    for (got, _), (want, _) in zip(together, alone, strict=True):
        assert_same_models(got, want)


THREADS = """
import os, sys, torch, gdext
how, count = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(count)
model = gdext.nn.MLP([512, 512, 10])
optimizer = gdext.optim.SGD(model.parameters(), lr=0.01)
x, y = torch.ones(60, 512), torch.zeros(60, dtype=torch.int64)
before = len(os.listdir("/proc/self/task"))
loss = gdext.nn.CrossEntropyLoss()
for _ in range(3):
    if how == "fused":
        gdext.FusedTrainer(model, optimizer, loss).run(x, y, 30)
    else:
        loss(model(x), y).backward()
        optimizer.step()
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
@pytest.mark.parametrize("count", [1, 3])
def test_set_num_threads_is_honoured_by_the_fused_trainer(count):
    assert in_a_process(THREADS, "fused", count) == [str(count - 1)]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
def test_set_num_threads_is_honoured_by_the_layers():
    assert in_a_process(THREADS, "layers", 1) == ["0"]
    # PyTorch's pool, and autograd's own thread where there is one.
    assert int(in_a_process(THREADS, "layers", 3)[0]) >= 2


LEAK = """
import sys, torch, gdext
how, steps = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(2)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

model = gdext.nn.MLP([8, 16, 4])
optimizer = gdext.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
loss = gdext.nn.CrossEntropyLoss()
trainer = gdext.FusedTrainer(model, optimizer, loss)
x, y = torch.randn(8, 8), torch.randint(4, (8,))

def step():
    if how == "layers":
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    elif how == "step":
        trainer.step(x, y)
    else:
        trainer.run(x, y, 4)

for _ in range(1000):
    step()
before = resident()
for _ in range(steps):
    step()
print(resident() - before)
"""
# For the whole of it: GDEXT_LEAK_STEPS=100000. A leak of one word a step shows at 10,000.
LEAK_STEPS = int(os.environ.get("GDEXT_LEAK_STEPS", "10000"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize("how", ["layers", "step", "run"])
def test_memory_does_not_grow(how):
    grown = int(in_a_process(LEAK, how, LEAK_STEPS)[0])
    assert grown < 300_000, f"{grown} bytes in {LEAK_STEPS} steps"
