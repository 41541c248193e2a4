"""Uniform through the library is a plain torch loop, bit for bit on the CPU."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from goldiprox.config import TrainConfig
from goldiprox.schema import Evidence
from goldiprox.seeds import derive_seed, stream
from goldiprox.selection.selectors import RandomChoice
from goldiprox.training.loop import train


def mlp(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 16), nn.ReLU(),
                         nn.Dropout(0.2), nn.Linear(16, classes))  # fmt: skip


def cnn(shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


def plain_loop(config, task, factory, channels_last):
    """What one would write without the library; only the order and the choice are shared."""
    torch.manual_seed(derive_seed(config.seed, "weights"))
    model = factory(task.train.store.example_shape, task.num_classes)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    torch.manual_seed(derive_seed(config.seed, "dropout"))
    data, step = task.train, 0
    model.train()
    for epoch in range(config.epochs):
        order = torch.randperm(len(data), generator=stream(config.seed, "order", epoch))
        for pool in order.split(config.pool_size):
            k = max(1, len(pool) * config.batch // config.pool_size)
            draw = stream(config.seed, "selection", step)
            chosen = RandomChoice()(Evidence(ids_B=data.ids_N[pool]), k, draw).positions_k
            drawn = task.preprocess.draw(len(pool), stream(config.seed, "augmentation", step))
            mine = None if drawn is None else drawn[chosen]
            images = task.preprocess(data.store.images_NCHW[data.rows_N[pool[chosen]]], mine)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(images), data.targets_N[pool[chosen]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return model


CASES = {
    "mlp with dropout": (mlp, (1, 6, 6), False, False),
    "mlp, colour, augmented": (mlp, (3, 6, 6), False, True),
    "cnn with batchnorm": (cnn, (1, 6, 6), True, False),
    "cnn, colour, augmented": (cnn, (3, 6, 6), True, True),
}


@pytest.mark.parametrize("batch", [8, 24], ids=["choosing a third", "taking everything"])
@pytest.mark.parametrize("name", CASES)
def test_uniform_is_plain_training_bit_for_bit(name, batch, make_task):
    factory, shape, channels_last, augment = CASES[name]
    task = make_task(count=62, shape=shape, augment=augment)
    assert task.preprocess.augments == augment
    config = TrainConfig(method="uniform", batch=batch, pool=24, epochs=2, lr=3e-3, seed=2)
    state = torch.get_rng_state()
    trained = train(config, task, factory=factory)
    assert torch.equal(torch.get_rng_state(), state)  # a run leaves the caller's randomness alone
    plain = plain_loop(config, task, factory, channels_last)
    for (key, mine), theirs in zip(
        trained.model.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), key


def test_augmentation_is_used_in_training(make_task):
    config = TrainConfig(method="uniform", batch=8, pool=24, epochs=1)

    def weights(augment):
        return (
            train(config, make_task(shape=(3, 6, 6), augment=augment), factory=mlp).model[1].weight
        )

    assert not torch.equal(weights(True), weights(False))


@pytest.mark.parametrize("method", ["loss", "rho-loss"])
def test_choosing_everything_is_plain_training_too(method, make_task, make_table):
    """With k = B a scoring pass may not leave a trace: same examples, same dropout masks."""
    task = make_task(count=62, shape=(1, 6, 6))
    config = TrainConfig(method=method, batch=24, pool=24, epochs=2, lr=3e-3, seed=2)
    trained = train(config, task, factory=cnn, irreducible=make_table(task.train.ids_N))
    plain = plain_loop(config, task, cnn, True)
    for mine, theirs in zip(trained.model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
