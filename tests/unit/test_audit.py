"""Counts by group over a run that is interrupted."""

import torch

from goldiprox.config import TrainConfig
from goldiprox.data.datasets import make_dataset
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.records.groups import GroupCounts
from goldiprox.training.audit import GroupAudit
from goldiprox.training.loop import Loop
from goldiprox.training.task import Task


def test_counts_survive_a_checkpoint_and_copies_count_as_their_original(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (200,), generator=generator)
    groups = ["a" if number % 5 else "b" for number in range(200)]
    dataset = make_dataset(
        "drawn", images, labels, torch.arange(150, 200), class_names=["0", "1", "2"],
        source="drawn", groups=groups,
    )  # fmt: skip
    splits = make_splits(dataset, DataConfig(dataset="drawn", holdout=0.2, duplicate=2))
    config = TrainConfig(model="mlp-128", method="loss", pool=16, batch=4, epochs=8)
    task = Task(
        train=splits.train, evaluation=splits.test, preprocess=splits.preprocess, num_classes=3
    )
    seen = []

    class Notes(GroupAudit):
        def stepped(self, loop, record):
            super().stepped(loop, record)
            seen.extend(groups[i % 200] for i in record.selection.ids_k.tolist())

    first, second = (Notes(tmp_path, dataset) for _ in range(2))
    loop = Loop(config, task, hooks=(first,))
    for _ in range(70):  # beyond one settling
        loop.one_step()
    second.load_state_dict(first.state_dict())
    loop.hooks = (second,)
    for _ in range(9):
        loop.one_step()
    second.finished(loop)
    found = GroupCounts.read(tmp_path)
    assert found.names == ["b", "a"]
    assert found.chosen == [seen.count("b"), seen.count("a")]
    assert sum(found.chosen) == len(seen) == 79 * 4
    assert found.pool == [
        sum(groups[i % 200] == name for i in splits.train.ids_N.tolist()) for name in "ba"
    ]
    assert sum(found.pool) == len(splits.train)
    assert found.test == [10, 40]
    assert all(0 <= c <= t for c, t in zip(found.correct, found.test, strict=True))


def test_a_run_without_groups_has_no_counts(tmp_path):
    assert GroupCounts.read(tmp_path) is None
