"""A small selection of what gdext does on a GPU, for compute-sanitizer, which takes many times as
long: each op forward, backward and double backward at odd sizes, SGD on lists short and long,
aligned and not, and FusedTrainer. No test, and no pytest:

    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    compute-sanitizer --tool memcheck python3 tests/sanitizer_selection.py
"""

import sys

import torch

import gdext
from gdext import functional as F


def through(f, *inputs):
    y = f(*inputs)
    firsts = torch.autograd.grad(y, inputs, torch.full_like(y, 0.5), create_graph=True)
    live = [d for d in firsts if d.requires_grad]
    seconds = torch.autograd.grad(live, inputs, list(map(torch.ones_like, live)), allow_unused=True)
    return [t for t in (y, *firsts, *seconds) if t is not None]


def ops(device):
    """Name, function and shapes of its inputs."""
    classes = torch.tensor([0, 2, -100, 1, 6, 3, 5], device=device)
    many = torch.tensor([0, 1100, 5], device=device)
    yield "linear", lambda x, w, b: F.linear(x, w, b, "gelu"), [(33, 17), (35, 17), (35,)]
    yield "linear, one row", lambda x, w: F.linear(x, w, None, "relu"), [(1, 70), (5, 70)]
    yield "mse", F.mse_loss, [(7, 9), (7, 9)]
    yield "cross entropy", lambda x: F.cross_entropy(x, classes, label_smoothing=0.1), [(7, 7)]
    yield "cross entropy, wide", lambda x: F.cross_entropy(x, many), [(3, 1101)]
    yield "probabilities", lambda x, t: F.cross_entropy(x, t.sigmoid()), [(5, 3), (5, 3)]


def large_ops(device):
    # On sm_90 by wgmma in 16 bits and tf32: y by whole tiles, dx, 25 tiles, by clusters of 4 each.
    yield "linear, many rows", lambda x, w: F.linear(x, w, None, "relu"), [(3200, 64), (2048, 64)]


def check_ops(ops, device, dtype):
    for name, f, shapes in ops:
        inputs = [torch.randn(s).to(device, dtype).requires_grad_() for s in shapes]
        if not all(bool(t.isfinite().all()) for t in through(f, *inputs)):
            raise SystemExit(f"{name}, {dtype}: not finite")


def check_sgd(device, dtype):
    for count, offset in ((0, 0), (1, 1), (120, 3), (1100, 1)):
        sizes = [(1, 0, 9, 2049)[i % 4] for i in range(count)]
        memory = torch.zeros(sum(sizes) + offset).to(device, dtype)
        params = [p.requires_grad_() for p in memory[offset:].split(sizes)] if sizes else []
        for p in params:
            p.grad = torch.ones(p.shape).to(device, dtype)
        if params:
            gdext.optim.SGD(params, 1.0, momentum=0.5).step()
        if not bool((memory[offset:] == -1).all()) or memory[:offset].any():
            raise SystemExit(f"sgd, {dtype}, {count} tensors: wrong")


def check_fused(device, dtype):
    """Batches that take each form of FusedTrainer's steps, on an H100 in float32: test_plans in
    tests/cuda_on_cpu/test_mlp_runs.cpp."""
    one_block, cluster, grid = (
        ([9, 5], 1, 40),
        ([33, 200, 130, 7], 3, 40),
        ([784, 512, 512, 10], 1, 3),
    )
    layers_and_graph = ([33, 20, 7], 17, 17 * 35)
    for sizes, batch, samples in (one_block, cluster, grid, layers_and_graph):
        model = gdext.nn.MLP(sizes).to(device, dtype)
        optimizer = gdext.optim.SGD(model.parameters(), 0.01, momentum=0.5)
        trainer = gdext.FusedTrainer(model, optimizer, gdext.nn.CrossEntropyLoss())
        x = torch.randint(256, (samples, sizes[0]), dtype=torch.uint8).to(device)
        y = torch.randint(sizes[-1], (samples,)).to(device)
        if not bool(trainer.run(x, y, batch, order=torch.default_generator).isfinite().all()):
            raise SystemExit(f"FusedTrainer, {dtype}, {sizes}: not finite")


def main(device):
    torch.manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16):
        check_ops(ops(device), device, dtype)
        check_sgd(device, dtype)
        check_fused(device, dtype)
    # Last: what may be too much for a sanitizer.
    torch.set_float32_matmul_precision("high")
    for dtype in (torch.float32, torch.bfloat16):
        check_ops(large_ops(device), device, dtype)
    print(f"the selection is done on {device}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda")
