"""Every score of a table against slow float64 loops over single examples."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from goldiprox.evidence.forward import ScoringPass
from goldiprox.precompute.data_diet import ScoreConfig, ScoreHook, score_replica, snapshot
from goldiprox.precompute.diet_scores import SCORES, Forgetting, MarginArea, missing_margin
from goldiprox.training.feed import Feeder
from goldiprox.training.hooks import Hook
from goldiprox.training.loop import Loop
from goldiprox.training.task import CheckpointEvery, Task

SNAPSHOTS = ("el2n", "grand", "grand-last-layer", "margin", "loss", "entropy")


class Small(torch.nn.Module):
    """A convolution and two linear layers: enough for all parameters to differ from the last."""

    def __init__(self, shape, classes):
        super().__init__()
        self.conv = torch.nn.Conv2d(shape[0], 3, 3)
        self.hidden = torch.nn.Linear(3 * (shape[1] - 2) * (shape[2] - 2), 5)
        self.last = torch.nn.Linear(5, classes)

    def forward(self, x):
        return self.last(torch.tanh(self.hidden(torch.relu(self.conv(x)).flatten(1))))


def reference(model, image_CHW, target):
    """All snapshot scores of one example, from its own loss, in float64."""
    model = copy.deepcopy(model).double().eval()
    logits = model(image_CHW.double().unsqueeze(0))[0]
    z = logits.tolist()
    top = max(z)
    total = sum(math.exp(v - top) for v in z)
    p = [math.exp(v - top) / total for v in z]
    loss = -torch.log_softmax(logits, 0)[target]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    last = [id(q) for q in model.last.parameters()]
    squares = {
        id(q): float((g**2).sum()) for q, g in zip(model.parameters(), gradients, strict=True)
    }
    return {
        "el2n": math.sqrt(sum((p[c] - (c == target)) ** 2 for c in range(len(p)))),
        "grand": math.sqrt(sum(squares.values())),
        "grand_last_layer": math.sqrt(sum(squares[i] for i in last)),
        "margin": max(v for c, v in enumerate(z) if c != target) - z[target],
        "loss": -math.log(p[target]),
        "entropy": -sum(q * math.log(q) for q in p),
    }


def test_snapshot_scores_equal_a_float64_loop(make_task):
    task = make_task(count=150)
    torch.manual_seed(0)
    model = Small((1, 4, 4), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)  # confident here and there, so that the scores spread
    feeder = Feeder.of(model, task.preprocess, torch.device("cpu"))
    model = feeder.place(model).train()
    entries = [SCORES[name] for name in SNAPSHOTS]
    found = snapshot(ScoringPass(model), feeder, task.train, entries)
    assert model.training
    for position in range(0, 150, 7):
        _, images, targets = feeder(task.train, torch.tensor([position]))
        wanted = reference(model, images[0], int(targets[0]))
        for name, value in wanted.items():
            assert float(found[name][position]) == pytest.approx(value, rel=2e-5, abs=1e-6), name
    assert float(found["grand"].std()) > 0.1
    assert not torch.allclose(found["grand"], found["grand_last_layer"], rtol=0.05)


def test_one_snapshot_alone_equals_all_together(make_task):
    """Without GraNd no backward pass is run and the batches are larger: same scores."""
    task = make_task(count=150)
    model = Small((1, 4, 4), 3)
    feeder = Feeder.of(model, task.preprocess, torch.device("cpu"))
    model = feeder.place(model)
    together = snapshot(ScoringPass(model), feeder, task.train, [SCORES[n] for n in SNAPSHOTS])
    for name in SNAPSHOTS:
        alone = snapshot(ScoringPass(model), feeder, task.train, [SCORES[name]])
        column = SCORES[name].column
        assert torch.allclose(alone[column], together[column], rtol=1e-5, atol=1e-7)


LOG = {
    # correct at its visits -> (events, first learnt, never learnt)
    "steady": ("11111", 0, 1, False),
    "forgotten once": ("01101", 1, 2, False),
    "forgotten twice": ("10101", 2, 1, False),
    "lost at the end": ("00110", 1, 3, False),
    "learnt last": ("00001", 0, 5, False),
    "never": ("00000", 5, 0, True),  # the maximum: five visits
}


def test_forgetting_of_a_hand_written_log():
    """Visits come in different orders and with gaps; only an example's own visits count."""
    forgetting = Forgetting(len(LOG))
    rows = list(LOG.values())
    for epoch in range(5):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(4):
            correct = torch.tensor([rows[int(i)][0][epoch] == "1" for i in part])
            forgetting.visit(part, correct, epoch + 1)
    assert forgetting.scores_N().tolist() == [row[1] for row in rows]
    assert forgetting.first_learnt_N.tolist() == [row[2] for row in rows]
    assert forgetting.never_learnt_N.tolist() == [row[3] for row in rows]
    scores = dict(zip(LOG, forgetting.scores_N().tolist(), strict=True))
    assert max(scores, key=scores.get) == "never"


def test_margin_area_is_the_mean_over_visits():
    area = MarginArea(3)
    area.visit(torch.tensor([2, 0]), torch.tensor([1.0, -4.0]))
    area.visit(torch.tensor([0]), torch.tensor([-2.0]))
    found = area.scores_N()
    assert found[[0, 2]].tolist() == [-3.0, 1.0]
    assert found[1].isnan()


def test_missing_margin_is_negative_where_the_label_wins():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]])
    assert missing_margin(logits, torch.tensor([0, 2])).tolist() == [-1.0, 6.0]


class Notes(Hook):
    """Keeps every visit as Python numbers."""

    def __init__(self):
        self.visits = {}

    def stepped(self, loop, record):
        logits, targets = loop.stepped.output.double().tolist(), loop.stepped.batch[2].tolist()
        for i, z, y in zip(record.selection.ids_k.tolist(), logits, targets, strict=True):
            margin = max(v for c, v in enumerate(z) if c != y) - z[y]
            self.visits.setdefault(i, []).append((margin < 0, margin))


def test_watched_scores_equal_the_visits_of_the_run(make_tiny_splits):
    """Forgetting and the area under the margin from each example's own list of visits."""
    splits = make_tiny_splits(label_noise=0.3)
    config = ScoreConfig(
        model="mlp-128", scores=("forgetting", "aum"), epoch=(6,), batch=16, lr=3e-3, replicas=1
    )
    table = score_replica(splits, config, 0)
    notes = Notes()
    task = Task(
        train=splits.full, evaluation=splits.test, preprocess=splits.preprocess, num_classes=3
    )
    Loop(config.training(0), task, hooks=(notes,)).run(CheckpointEvery(), lambda *_: None)
    kinds = set()
    for row, example in enumerate(table.ids_N.tolist()):
        correct = [c for c, _ in notes.visits[example]]
        assert len(correct) == 6
        events = sum(a and not b for a, b in pairwise(correct))
        never = not any(correct)
        kinds.add((never, events > 0))
        assert table.columns["forgetting"][row] == (6 if never else events)
        assert table.columns["never_learnt"][row] == never
        first = 7 if never else correct.index(True) + 1
        assert table.columns["first_learnt"][row] == first
        mean = sum(m for _, m in notes.visits[example]) / 6
        assert table.columns["aum"][row] == pytest.approx(mean, rel=1e-5, abs=1e-6)
    assert kinds == {(False, False), (False, True), (True, False)}  # all cases occurred


def test_the_hook_changes_nothing_of_the_run(make_tiny_splits):
    splits = make_tiny_splits()
    config = ScoreConfig(
        model="mlp-dropout", scores=tuple(n for n in SCORES if SCORES[n].kind != "irreducible"),
        epoch=(0, 1, 2), batch=16,
    )  # fmt: skip
    task = Task(
        train=splits.full, evaluation=splits.test, preprocess=splits.preprocess, num_classes=3
    )
    weights = []
    for hooks in ((), (ScoreHook(config),)):
        trained = Loop(config.training(0), task, hooks=hooks).run(
            CheckpointEvery(), lambda *_: None
        )
        weights.append(trained.model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_snapshots_are_of_the_named_epochs(make_tiny_splits):
    splits = make_tiny_splits()
    config = ScoreConfig(model="mlp-128", scores=("loss", "grand-init"), epoch=(0, 2), batch=16)
    found = score_replica(splits, config, 1).columns
    task = Task(
        train=splits.full, evaluation=splits.test, preprocess=splits.preprocess, num_classes=3
    )
    loop = Loop(config.training(1), task)
    feeder = loop.feeder
    _, images, targets = feeder(splits.full, torch.arange(len(splits.full)))

    def losses():
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(loop.model(images), targets, reduction="none")

    assert np.allclose(found["loss_epoch_0"], losses(), atol=1e-5)
    for _ in range(2 * loop.per_epoch):
        loop.one_step()
    assert np.allclose(found["loss"], losses(), atol=1e-5)
    assert not np.allclose(found["loss"], found["loss_epoch_0"], atol=0.05)
    assert set(found) == {"loss", "loss_epoch_0", "grand_init"}
