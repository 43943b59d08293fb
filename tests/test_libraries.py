"""The same short training by a library on top of PyTorch, with torch's parts and with gdext's.

The libraries are those of scripts/requirements/libraries.txt; one that is missing is skipped.
"""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gdext

SIZES = (8, 16, 3)
EPOCHS, BATCH_SIZE, SGD = 3, 8, {"lr": 0.1, "momentum": 0.9}


def library(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, SIZES[0], generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 1).long()


def loader():
    return DataLoader(TensorDataset(*data()), BATCH_SIZE)


def network(kinds):
    """Of torch's parts, or of gdext's; from the same parameters."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(*SIZES[:2]), nn.ReLU(), nn.Linear(*SIZES[1:]))
    return gdext.nn.convert(net) if kinds is gdext else net


def assert_same_training(train):
    """`train` returns a trained network and its losses."""
    (got, losses), (want, want_losses) = train(gdext), train(torch)
    assert type(got[0]) is gdext.nn.Linear and type(want[0]) is nn.Linear
    assert len(losses) == len(want_losses) > 1 and losses[-1] < 0.9 * losses[0]
    assert losses == pytest.approx(want_losses, rel=1e-4)
    start = network(torch)
    for p, q, r in zip(got.parameters(), want.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        assert (q - r).abs().max() > 1e-2


def test_lightning(tmp_path):
    lightning = library("lightning")

    def train(kinds):
        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.net, self.loss = network(kinds), kinds.nn.CrossEntropyLoss()
                self.losses = []

            def training_step(self, batch, index):
                x, y = batch
                loss = self.loss(self.net(x), y)
                self.losses.append(float(loss.detach()))
                return loss

            def configure_optimizers(self):
                optimizer = kinds.optim.SGD(self.parameters(), **SGD)
                scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
                return [optimizer], [scheduler]

        module = Module()
        trainer = lightning.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", devices=1, gradient_clip_val=0.5,
            accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, loader())
        return module.net, module.losses

    assert_same_training(train)


def test_skorch():
    skorch = library("skorch")

    def train(kinds):
        net = skorch.NeuralNetClassifier(
            network(kinds), criterion=kinds.nn.CrossEntropyLoss, optimizer=kinds.optim.SGD,
            optimizer__momentum=SGD["momentum"], lr=SGD["lr"], max_epochs=EPOCHS,
            batch_size=BATCH_SIZE, train_split=None, iterator_train__shuffle=False, verbose=0,
        )  # fmt: skip
        x, y = data()
        net.fit(x.numpy(), y.numpy())
        assert net.score(x.numpy(), y.numpy()) > 0.7
        return net.module_, net.history[:, "train_loss"]

    assert_same_training(train)


def test_accelerate():
    accelerate = library("accelerate")

    def train(kinds):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        net = network(kinds)
        loss_fn, optimizer = kinds.nn.CrossEntropyLoss(), kinds.optim.SGD(net.parameters(), **SGD)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5)
        model, optimizer, batches, scheduler = accelerator.prepare(
            net, optimizer, loader(), scheduler
        )
        losses = []
        for _ in range(EPOCHS):
            for x, y in batches:
                with accelerator.accumulate(model):
                    loss = loss_fn(model(x), y)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                losses.append(float(loss.detach()))
        return accelerator.unwrap_model(model), losses

    assert_same_training(train)
