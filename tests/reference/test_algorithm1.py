"""Algorithm 1 of Mindermann et al. 2022, written slowly and obviously, against the loop.

The reference works one example at a time in Python: it shuffles the epoch, cuts pools, scores each
candidate with a float64 copy of the model, subtracts the irreducible loss, sorts, and trains on the
first b. It shares the random streams and nothing else with the library.
"""

import copy
import math

import pytest
import torch
from torch import nn

from goldiprox.config import TrainConfig
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.seeds import derive_seed, stream
from goldiprox.training.loop import train

POOL, BATCH, EPOCHS, LR, DECAY, SEED = 24, 5, 3, 3e-3, 0.05, 4


def factory(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 12), nn.Tanh(),
                         nn.Linear(12, classes))  # fmt: skip


def initial_model(task):
    torch.manual_seed(derive_seed(SEED, "weights"))
    return factory(task.train.store.example_shape, task.num_classes)


def input_of(task, position):
    """One example as the model sees it, normalised by hand in float64."""
    row = int(task.train.rows_N[position])
    pixels = task.train.store.images_NCHW[row].double() / 255
    mean = torch.tensor(task.preprocess.mean_C, dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(task.preprocess.std_C, dtype=torch.float64).view(-1, 1, 1)
    return (pixels - mean) / std


def loss_of(model64, image, label):
    """Cross-entropy of one example from its definition, in float64."""
    logits = model64(image.unsqueeze(0))[0]
    total = sum(math.exp(float(v) - float(logits.max())) for v in logits)
    return math.log(total) + float(logits.max()) - float(logits[label])


def splitmix(x):
    """SplitMix64's step on Python's integers, from Steele et al. 2014."""
    wide = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & wide
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & wide
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & wide
    return x ^ (x >> 31)


def random_number(id_, step):
    """The documented random number of an id in a step: SplitMix64's output number id of a key."""
    generator = stream(SEED, "selection", step)
    key = int(torch.randint(-(2**63), 2**63 - 1, (), generator=generator, dtype=torch.int64))
    return splitmix((key + (id_ - 1) * 0x9E3779B97F4A7C15) & (2**64 - 1))


def reference(task, method, irreducible_of):
    """Ids of every step and the final weights."""
    model = initial_model(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    count, step, chosen_ids, margins = len(task.train), 0, [], []
    for epoch in range(EPOCHS):
        order = torch.randperm(count, generator=stream(SEED, "order", epoch)).tolist()
        while order:
            pool, order = order[:POOL], order[POOL:]
            model64 = copy.deepcopy(model).double()
            scores = {}
            with torch.no_grad():
                for position in pool:
                    id_, label = (
                        int(task.train.ids_N[position]),
                        int(task.train.targets_N[position]),
                    )
                    if method == "uniform":
                        scores[position] = random_number(id_, step)
                    if method in ("loss", "rho-loss"):
                        scores[position] = loss_of(model64, input_of(task, position), label)
                    if method == "irreducible":
                        scores[position] = -irreducible_of[id_]
                    if method == "rho-loss":
                        scores[position] -= irreducible_of[id_]
            ranked = sorted(pool, key=lambda p: (-scores[p], int(task.train.ids_N[p])))
            k = max(1, math.floor(len(pool) * BATCH / POOL))
            if k < len(pool):
                margins.append(scores[ranked[k - 1]] - scores[ranked[k]])
            chosen = ranked[:k]
            chosen_ids.append(sorted(int(task.train.ids_N[p]) for p in chosen))
            images = torch.stack([input_of(task, p) for p in chosen]).float()
            labels = torch.tensor([int(task.train.targets_N[p]) for p in chosen])
            log_probs = model(images).log_softmax(1)
            loss = -sum(log_probs[i, labels[i]] for i in range(k)) / k
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return chosen_ids, model, margins


@pytest.mark.parametrize("method", ["uniform", "loss", "irreducible", "rho-loss"])
def test_the_loop_is_algorithm_1(method, make_task, make_table, tmp_path):
    task = make_task(count=62, shape=(1, 4, 4))  # 62 = 24 + 24 + 14: the last pool is short
    table = make_table(task.train.ids_N)
    irreducible_of = dict(
        zip(table.ids_N.tolist(), table.columns["irreducible_loss"].tolist(), strict=True)
    )
    config = TrainConfig(
        method=method,
        batch=BATCH,
        pool=POOL,
        epochs=EPOCHS,
        lr=LR,
        weight_decay=DECAY,
        seed=SEED,
        scoring_precision="float32",
    )
    folder = RunFolder(tmp_path / "run")
    trained = train(
        config,
        task,
        folder=folder,
        manifest={"config": {}, "config_hash": "h"},
        irreducible=table,
        factory=factory,
    )
    expected, model, margins = reference(task, method, irreducible_of)
    log = read_steps(folder.path).to_pydict()
    assert [sorted(ids) for ids in log["ids"]] == expected
    assert log["pool_size"] == [24, 24, 14] * EPOCHS
    assert [len(ids) for ids in log["ids"]] == [5, 5, 2] * EPOCHS
    assert log["epoch"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for (name, mine), theirs in zip(
        trained.model.named_parameters(), model.parameters(), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=2e-5), name
    # The scores at the edge are far enough apart for the choice to be no accident of rounding.
    assert min(margins) > 1e-6


def test_uniform_shuffles_the_epoch_and_every_pool_is_fresh(make_task, tmp_path):
    """Over an epoch no example is trained on twice: pools are drawn without replacement."""
    task = make_task(count=62)
    folder = RunFolder(tmp_path / "run")
    config = TrainConfig(method="uniform", batch=12, pool=24, epochs=2, seed=1)
    train(config, task, folder=folder, manifest={"config": {}, "config_hash": "h"}, factory=factory)
    log = read_steps(folder.path).to_pydict()
    first = [i for ids, epoch in zip(log["ids"], log["epoch"], strict=True) if not epoch
             for i in ids]  # fmt: skip
    second = [i for ids, epoch in zip(log["ids"], log["epoch"], strict=True) if epoch for i in ids]
    assert len(set(first)) == len(first) == 12 + 12 + 7
    assert len(set(second)) == len(second)
    assert set(first) != set(second)
