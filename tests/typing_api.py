"""A user's code, checked by mypy --strict in .ci/run and run by test_typing.py: what the public
interface takes and returns."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import assert_type

import gdext
import gdext._C
from gdext import descent, functional, gradients, nn, optim

x, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
w, b = torch.randn(3, 8, requires_grad=True), torch.zeros(3, requires_grad=True)

logits = functional.linear(x, w, b, activation="tanh")
assert_type(logits, Tensor)
assert_type(functional.cross_entropy(logits, labels, label_smoothing=0.1), Tensor)
assert_type(functional.mse_loss(logits, torch.zeros(4, 3), reduction="sum"), Tensor)
assert_type(functional.ACTIVATIONS[0], str)

layer = nn.Linear(8, 3, activation="relu", device="cpu", dtype=torch.float32)
assert_type(layer(x), Tensor)
assert_type(layer.activation, str | None)
model = nn.MLP([8, 5, 3], activation="gelu")
assert_type(model(x), Tensor)
loss_fn = nn.CrossEntropyLoss()
assert_type(loss_fn(model(x), labels), Tensor)
assert_type(nn.MSELoss()(x, x), Tensor)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8, 3)


assert_type(nn.convert(Net()), Net)

optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer.zero_grad()
torch.autograd.backward([loss_fn(model(x), labels)])
optimizer.step()
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)

trainer = gdext.FusedTrainer(model, optimizer, loss_fn)
assert_type(trainer.step(x, labels), Tensor)
assert_type(trainer.run(x, labels, 2, order=torch.default_generator, lr=[0.1, 0.05]), Tensor)


def bowl(p: Tensor) -> Tensor:
    return p.square().sum()


path = descent.descend(bowl, torch.ones(2), gamma=lambda n: 0.1 / (n + 1), steps=3)
assert_type(path, descent.Trajectory)
assert_type(path.points, Tensor)
try:
    descent.descend(bowl, torch.ones(2), gamma=[2.0] * 20)
except descent.DivergenceError as error:
    assert_type(error.trajectory, descent.Trajectory)

found = gradients.backprop([8, 5, 3], loss_fn, x, labels)
assert_type(found, gradients.Gradients)
assert_type(found.grads, dict[str, Tensor])
assert_type(found.errors, dict[str, Tensor] | None)
assert_type(gradients.cost("path_sum", [8, 5, 3], B=4), int)
assert_type(gradients.ENGINES["backprop"].run([8, 5, 3], loss_fn, x, labels), gradients.Gradients)

info = gdext.build_info()
assert_type(info["cpu"]["compiled"], list[str])
assert_type(info["cuda"]["toolkit"], str | None)
assert_type(gdext.__version__, str)


def digits() -> tuple[Tensor, tuple[str, ...]]:
    train = gdext.data.mnist(train=False, download=False)
    assert_type(train, gdext.data.ImageSet)
    return train.images, train.classes


# What is wrong must be an error: an ignore without one is an error itself.
def wrong() -> Any:
    functional.linear(x, w, b, activation=3)  # type: ignore[arg-type]
    nn.Linear("8", 3)  # type: ignore[arg-type]
    layer(x, x)  # type: ignore[call-arg]
    trainer.run(x, labels)  # type: ignore[call-arg]
    return info["gpu"]  # type: ignore[typeddict-item]
