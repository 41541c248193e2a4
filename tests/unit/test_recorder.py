"""The run folder of a loop of one's own."""

import copy
import json

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import goldiprox
from goldiprox.recorder import Recorder
from goldiprox.records.owner import holds
from goldiprox.schema import ConfigError

EXAMPLES = 60


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, 5, generator=generator)
    return goldiprox.with_ids(TensorDataset(inputs, inputs[:, :3].argmax(1)))


class Training:
    """A loop whose records can be interrupted at any step."""

    def __init__(self, out, method="loss", **settings):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.choose = goldiprox.Chooser(self.model, method, share=0.25, seed=3)
        self.record = Recorder(out, self.choose, data="toy", examples=EXAMPLES, **settings)

    def run(self, first, last):
        for step in range(first, last):
            loader = DataLoader(
                data(), batch_size=20, shuffle=True, generator=torch.Generator().manual_seed(step)
            )
            pool = next(iter(loader))
            with self.record.phase("scoring", pool):
                chosen = self.choose(pool)
            with self.record.phase("training", chosen):
                losses = F.cross_entropy(
                    self.model(chosen.batch[1]), chosen.batch[2], reduction="none"
                )
                self.optimizer.zero_grad()
                losses.mean().backward()
                self.optimizer.step()
            self.record.step(chosen, losses, lr=0.1)
            self.record.evaluate(accuracy=step / 10, loss=1.0)
        return self

    def state(self):
        parts = (self.record, self.model, self.optimizer, self.choose)
        return copy.deepcopy([part.state_dict() for part in parts])

    def load(self, state):
        for part, kept in zip((self.model, self.optimizer, self.choose), state[1:], strict=False):
            part.load_state_dict(kept)
        self.record.load_state_dict(state[0])
        return self


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_a_finished_run_says_what_was_chosen_and_what_it_cost(tmp_path):
    training = Training(tmp_path / "run", wrong_ids=[1, 2, 3]).run(0, 4)
    training.record.finish()
    steps = pq.read_table(tmp_path / "run" / "steps.parquet").to_pydict()
    assert steps["step"] == [0, 1, 2, 3]
    assert [len(ids) for ids in steps["ids"]] == [5] * 4
    assert steps["pool_size"] == [20] * 4
    assert steps["epoch"] == [0, 0, 0, 1]
    assert steps["corrupted"] == [len({1, 2, 3} & set(ids)) for ids in steps["ids"]]
    ledger = read(tmp_path / "run", "ledger")["phases"]
    assert (ledger["scoring"]["examples"], ledger["training"]["examples"]) == (80, 20)
    forward = 2 * (5 * 8 + 8 * 3)
    assert ledger["scoring"]["flops"] == 80 * forward
    backward = forward + 2 * 8 * 3  # of the weights, and of the second layer's inputs
    assert ledger["training"]["flops"] == 20 * (forward + backward)
    assert ledger["scoring"]["seconds"] > 0
    evaluations = read(tmp_path / "run", "evaluations")
    assert [e["accuracy"] for e in evaluations] == [0.0, 0.1, 0.2, 0.3]
    assert evaluations[2]["flops"] == 60 * forward + 15 * (forward + backward)
    manifest = read(tmp_path / "run", "manifest")
    assert manifest["arm"] == "loss"
    assert manifest["config"]["train"]["seed"] == 3
    assert manifest["data"]["label_noise"]["wrong"]["train"] == 3
    assert read(tmp_path / "run", "result")["best_accuracy"] == pytest.approx(0.3)


def test_an_interrupted_loop_leaves_the_same_records(tmp_path):
    Training(tmp_path / "whole").run(0, 5).record.finish()
    begun = Training(tmp_path / "cut").run(0, 3)
    state = begun.state()
    begun.run(3, 4)  # steps after the checkpoint are run again
    begun.state()  # a second checkpoint, whose part of the log is on disk, is lost
    Training(tmp_path / "cut").load(state).run(3, 5).record.finish()
    one, other = (
        pq.read_table(tmp_path / name / "steps.parquet").to_pydict() for name in ("whole", "cut")
    )
    assert one == other
    costs = [
        {name: {k: v for k, v in cost.items() if k != "seconds"} for name, cost in phases.items()}
        for phases in (read(tmp_path / name, "ledger")["phases"] for name in ("whole", "cut"))
    ]
    assert costs[0] == costs[1]


def test_a_loop_without_a_chooser(tmp_path):
    with Recorder(tmp_path / "run", method="mine", data="toy", examples=10) as record:
        with record.phase("training", 4, flops=7.0):
            pass
        record.step(torch.tensor([4, 2]), torch.tensor([0.5, 1.5]), pool_size=4)
        record.evaluate({"accuracy": 0.5})
    steps = pq.read_table(tmp_path / "run" / "steps.parquet").to_pydict()
    assert (steps["ids"], steps["loss"], steps["lr"]) == ([[4, 2]], [1.0], [None])
    assert read(tmp_path / "run", "ledger")["phases"]["training"]["flops"] == 7.0


def test_another_headline(tmp_path):
    settings = {"data": "toy", "examples": 10, "objective": "regression"}
    with Recorder(tmp_path / "run", method="mine", **settings) as record:
        record.step(torch.tensor([1]), torch.tensor([1.0]))
        with pytest.raises(ConfigError, match="needs rmse; given: accuracy"):
            record.evaluate(accuracy=0.5)
        record.evaluate(rmse=3.0)
        record.step(torch.tensor([1]), torch.tensor([1.0]))
        record.evaluate(rmse=4.0)
    result = read(tmp_path / "run", "result")
    assert (result["metric"]["name"], result["final"], result["best"]) == ("rmse", 4.0, 3.0)
    assert "final_accuracy" not in result


def test_loggers_are_told_of_every_evaluation(tmp_path):
    class Kept:
        def __init__(self):
            self.rows = []

        def log(self, values, *, step):
            self.rows.append((step, values))

    kept = Kept()
    Training(tmp_path / "run", loggers=[kept]).run(0, 2)
    assert [step for step, _ in kept.rows] == [1, 2]
    assert kept.rows[1][1]["accuracy"] == pytest.approx(0.1)
    assert kept.rows[1][1]["flops"] > 0


def test_what_makes_no_sense_is_refused(tmp_path):
    settings = {"data": "toy", "examples": 10}
    with pytest.raises(ConfigError, match="needs the Chooser"):
        Recorder(tmp_path / "a", **settings)
    with pytest.raises(ConfigError, match="size of the training set"):
        Recorder(tmp_path / "a", method="mine", data="toy", examples=0)
    record = Recorder(tmp_path / "a", method="mine", **settings)
    with pytest.raises(ConfigError, match='no phase "sleeping"'):
        record.phase("sleeping")
    with pytest.raises(ConfigError, match="step before"):
        record.evaluate(accuracy=0.5)
    with pytest.raises(ConfigError, match="one loss for each"):
        record.step(torch.tensor([1, 2]), torch.tensor(0.5))
    record.step(torch.tensor([1, 2]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ConfigError, match="after the last step"):
        record.finish()
    record.evaluate(accuracy=0.5)
    record.finish()
    with pytest.raises(ConfigError, match="finished run"):
        Recorder(tmp_path / "a", method="mine", **settings)


def test_an_error_in_the_loop_leaves_the_run_unfinished(tmp_path):
    record = Recorder(tmp_path / "a", method="mine", data="toy", examples=10)

    def loop():
        with record:
            record.step(torch.tensor([1]), torch.tensor([0.5]))
            record.evaluate(accuracy=0.5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert not (tmp_path / "a" / "result.json").exists()


def test_the_folder_is_this_process_s_until_the_run_is_finished(tmp_path):
    file = tmp_path / "run" / "manifest.json"
    first = Training(tmp_path / "run").run(0, 2)
    assert holds(file)
    first.record.finish()
    assert not holds(file)
    with pytest.raises(ConfigError, match="after the last step"), Training(tmp_path / "b").record:
        pass
    assert not holds(tmp_path / "b" / "manifest.json")
