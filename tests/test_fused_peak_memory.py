"""The peak memory of gdext.FusedTrainer's steps beside that of PyTorch's loop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gdext

PEAK_MEMORY = """
import torch, gdext
torch.set_num_threads({threads})

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

model = torch.nn.Sequential(
    torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
    torch.nn.Linear(512, 10),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
loss = torch.nn.CrossEntropyLoss()
B = {batch_size}
x, y, order = torch.randn(4 * B, 784), torch.randint(10, (4 * B,)), torch.randperm(4 * B)
before = peak()
{steps}
print(peak() - before)
"""
FUSED_STEPS = "gdext.FusedTrainer(model, optimizer, loss).run(x, y, B, order=order)"
EAGER_STEPS = """
for batch in order.split(B):
    optimizer.zero_grad()
    loss(model(x[batch]), y[batch]).backward()
    optimizer.step()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 128, 2048])
def test_peak_memory_is_at_most_pytorch_s(batch_size, threads):
    env = {**os.environ, "PYTHONPATH": str(Path(gdext.__file__).parents[1])}
    fused, eager = (
        int(
            subprocess.check_output(
                [
                    sys.executable,
                    "-c",
                    PEAK_MEMORY.format(batch_size=batch_size, steps=steps, threads=threads),
                ],
                env=env,
            )
        )
        for steps in (FUSED_STEPS, EAGER_STEPS)
    )
    assert 0 < fused <= eager, f"{fused} KiB, PyTorch {eager} KiB"
