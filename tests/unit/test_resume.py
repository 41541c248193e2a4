"""A run that is stopped anywhere and started again ends as if it had never stopped."""

import hashlib
import json
import math

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from goldiprox.config import TrainConfig, config_hash
from goldiprox.records import runs
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.schema import CheckpointError, NonFinite
from goldiprox.training.loop import train
from goldiprox.training.task import CheckpointEvery

POOL, BATCH = 24, 8  # 62 examples: 3 pools an epoch, the last one short


class Stop(Exception):  # noqa: N818 - not an error of the library's
    """What a killed process is in these tests."""


def dropout(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 12), nn.ReLU(), nn.Dropout(0.4),
                         nn.Linear(12, classes))  # fmt: skip


def batchnorm(shape, classes):
    return nn.Sequential(nn.Conv2d(shape[0], 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
                         nn.Dropout2d(0.2), nn.Flatten(),
                         nn.Linear(6 * math.prod(shape[1:]), classes))  # fmt: skip


class Dying(nn.Sequential):
    """Raises in a given training forward pass, counted from when the model was made."""

    stop_at = None

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.done = getattr(self, "done", 0) + 1
            if self.done == self.stop_at:
                raise Stop
        return super().forward(x)


def dying(factory, at):
    def make(shape, classes):
        model = Dying(*factory(shape, classes))
        model.stop_at = at  # the pass that counts FLOPs runs on a copy
        return model

    return make


class Lab:
    """One configuration, run into folders of one's choice."""

    def __init__(self, tmp_path, task, table, factory, **config):
        self.path, self.task, self.table, self.factory = tmp_path, task, table, factory
        settings = {"batch": BATCH, "pool": POOL, "epochs": 4, "seed": 1, "lr": 3e-3}
        self.config = TrainConfig(**{**settings, **config})

    def manifest(self):
        body = {"train": {"method": self.config.method, "lr": self.config.lr}}
        return {"config": body, "config_hash": config_hash(body)}

    def run(self, name, stop_at=None, every=2, **settings):
        folder = RunFolder(self.path / name)
        trained = train(
            self.config,
            self.task,
            folder=folder,
            manifest=self.manifest(),
            irreducible=self.table,
            factory=dying(self.factory, stop_at),
            checkpoint=CheckpointEvery(steps=every),
            **settings,
        )
        return folder, trained

    def stopped(self, name, at, every=2, **settings):
        with pytest.raises(Stop):
            self.run(name, at, every, **settings)
        return RunFolder(self.path / name)


@pytest.fixture
def lab(tmp_path, make_task, make_table):
    def make(factory=dropout, shape=(1, 4, 4), **config):
        task = make_task(count=62, shape=shape, augment=shape[0] == 3)
        return Lab(tmp_path, task, make_table(task.train.ids_N), factory, **config)

    return make


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def costs(folder):
    phases = folder.ledger()["phases"]
    return {
        name: {k: v for k, v in cost.items() if k != "seconds"}
        for name, cost in phases.items()
        if name != "records"
    }


def assert_same_run(one, other):
    assert (one.path / "steps.parquet").read_bytes() == (other.path / "steps.parquet").read_bytes()
    first, second = one.load_weights("model"), other.load_weights("model")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert without_seconds(one.evaluations()) == without_seconds(other.evaluations())
    assert one.result() == other.result()
    assert costs(one) == costs(other)
    assert sorted(p.name for p in one.path.iterdir()) == sorted(
        p.name for p in other.path.iterdir()
    )


FILES = ["evaluations.json", "files.json", "ledger.json", "manifest.json", "model.safetensors",
         "result.json", "steps.parquet"]  # fmt: skip


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 12])
@pytest.mark.parametrize(
    ("method", "factory", "shape"),
    [("uniform", dropout, (1, 4, 4)), ("rho-loss", dropout, (1, 4, 4)),
     ("rho-loss", batchnorm, (3, 6, 6)), ("infobatch", dropout, (1, 4, 4)),
     ("rs2", batchnorm, (3, 6, 6))],
)  # fmt: skip
def test_a_resumed_run_equals_an_unbroken_one(method, factory, shape, at, lab):
    bench = lab(factory, shape, method=method)
    whole, _ = bench.run("whole", every=100)
    assert sorted(p.name for p in whole.path.iterdir()) == FILES
    folder = bench.stopped("broken", at)
    assert not folder.finished
    bench.run("broken")
    assert_same_run(folder, whole)


def test_stopped_again_and_again(lab):
    bench = lab(method="rho-loss", evaluate_every=2, schedule="one-cycle")
    whole, _ = bench.run("whole", every=100)
    for _ in range(20):
        try:
            folder, _ = bench.run("broken", 3, every=1)
        except Stop:
            continue
        break
    assert_same_run(folder, whole)
    steps = read_steps(folder.path)["step"].to_pylist()
    assert steps == list(range(12))


def test_stopped_from_the_progress_report(lab):
    bench = lab(method="rho-loss")
    whole, _ = bench.run("whole")

    def stop(done, total, status):
        assert total == 12
        assert status.startswith(f"step {done}/12")
        if done == 6:
            raise Stop

    folder = bench.stopped("broken", None, every=1, report=stop)
    bench.run("broken")
    assert_same_run(folder, whole)


def test_stopped_with_the_best_weights_kept(lab):
    """The best checkpoint came before the interruption; patience ends the run after it."""
    bench = lab(method="uniform", epochs=30, lr=0.3, patience=2)
    whole, first = bench.run("whole", keep_best=True)
    assert first.steps < 90
    best = min(range(len(first.evaluations)), key=lambda i: first.evaluations[i].loss)
    at = first.evaluations[best].step + 2
    folder = bench.stopped("broken", at, every=1, keep_best=True)
    _, second = bench.run("broken", keep_best=True)
    assert_same_run(folder, whole)
    assert second.steps == first.steps


def test_killed_between_a_part_of_the_log_and_its_checkpoint(lab):
    bench = lab(method="rho-loss")
    whole, _ = bench.run("whole")
    folder = bench.stopped("broken", 4)  # checkpoint at step 2, killed in step 4 (1-based)
    ahead = bench.stopped("ahead", 6)  # parts up to step 4
    for part in (ahead.path / "steps").iterdir():
        (folder.path / "steps" / part.name).write_bytes(part.read_bytes())
    assert len(list((folder.path / "steps").iterdir())) == 2
    bench.run("broken", every=5)  # parts of another length: an old one would not be overwritten
    assert_same_run(folder, whole)


def test_checkpoint_deleted_as_the_message_says(lab):
    bench = lab(method="uniform")
    whole, _ = bench.run("whole")
    folder = bench.stopped("broken", 8)
    [checkpoint] = folder.path.glob("checkpoint-*.pt")
    checkpoint.unlink()
    assert len(list((folder.path / "steps").iterdir())) == 3
    bench.run("broken", every=5)
    assert_same_run(folder, whole)


@pytest.mark.parametrize("name", ["model.safetensors", "evaluations.json", "ledger.json",
                                  "result.json"])  # fmt: skip
def test_killed_while_the_records_of_a_finished_run_are_written(name, lab, monkeypatch):
    """The log is merged first; the steps before the last checkpoint must survive that."""
    bench = lab(method="uniform")
    whole, _ = bench.run("whole")
    real = runs.whole_file

    def killed(path):
        if path.name == name:
            raise Stop
        return real(path)

    monkeypatch.setattr(runs, "whole_file", killed)
    monkeypatch.setattr("goldiprox.records.files.whole_file", killed)
    folder = bench.stopped("broken", None)
    monkeypatch.undo()
    assert read_steps(folder.path).num_rows == 12
    bench.run("broken")
    assert_same_run(folder, whole)


def test_rubbish_of_a_killed_write_does_no_harm(lab):
    bench = lab(method="uniform")
    whole, _ = bench.run("whole")
    folder = bench.stopped("broken", 6)
    (
        folder.path / "steps" / ".000000000004-000000000005.parquet.0123456789abcdef.part"
    ).write_bytes(b"half")
    (folder.path / "checkpoint.new").write_bytes(b"half")
    bench.run("broken")
    assert_same_run(folder, whole)


def test_two_checkpoints_the_later_one_counts(lab):
    bench = lab(method="uniform")
    whole, _ = bench.run("whole")
    early = bench.stopped("early", 3)
    folder = bench.stopped("broken", 8)
    [old] = early.path.glob("checkpoint-*.pt")
    (folder.path / old.name).write_bytes(old.read_bytes())
    bench.run("broken")
    assert_same_run(folder, whole)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_a_damaged_checkpoint_is_refused_naming_file_and_remedy(how, lab):
    bench = lab(method="uniform")
    folder = bench.stopped("broken", 6)
    [checkpoint] = folder.path.glob("checkpoint-*.pt")
    data = bytearray(checkpoint.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    checkpoint.write_bytes({"flipped": data, "truncated": data[:-9], "empty": b""}[how])
    with pytest.raises(
        CheckpointError, match=rf"{checkpoint.name} is damaged.*rm .*{checkpoint.name}"
    ):
        bench.run("broken")
    checkpoint.unlink()  # the remedy works
    bench.run("broken")
    assert folder.finished


def test_a_checkpoint_that_is_whole_but_no_checkpoint_is_refused(lab):
    bench = lab(method="uniform")
    folder = bench.stopped("broken", 6)
    junk = b"not a checkpoint"
    name = f"checkpoint-000000000099-{hashlib.sha256(junk).hexdigest()[:16]}.pt"
    (folder.path / name).write_bytes(junk)
    with pytest.raises(CheckpointError, match=f"{name}"):
        bench.run("broken")


def test_a_folder_of_another_configuration_is_refused_naming_the_difference(lab):
    bench = lab(method="uniform", lr=1e-3)
    folder = bench.stopped("broken", 6)
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    other = lab(method="uniform", lr=2e-3)
    with pytest.raises(CheckpointError, match=r"train\.lr is 0\.001 there, 0\.002 now.*--out"):
        other.run("broken")
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before


def test_a_damaged_manifest_is_refused(lab):
    bench = lab(method="uniform")
    folder = bench.stopped("broken", 6)
    manifest = folder.path / "manifest.json"
    manifest.write_text(manifest.read_text()[:-30])
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        bench.run("broken")


def poisoned(at, how):
    """A model that breaks at one training step: its loss, or only its gradient, becomes NaN."""

    class Poisoned(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))

        def forward(self, x):
            logits = self.net(x)
            if self.training and torch.is_grad_enabled():
                self.steps = getattr(self, "steps", -1) + 1  # FLOPs are counted on a copy
                if self.steps == at and how == "loss":
                    hit = torch.zeros(len(x), 1)
                    hit[1] = math.nan
                    logits = logits + hit
                if self.steps == at and how == "gradient":
                    # sqrt has an infinite slope at zero: infinity times zero is NaN.
                    logits = logits + torch.sqrt(self.net[1].weight.sum() * 0) * 0
            return logits

    return Poisoned


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_what_is_no_longer_finite_stops_the_run(how, every, lab):
    bench = lab(method="uniform")
    bench.factory = None
    folder = RunFolder(bench.path / "run")

    def go():
        train(bench.config, bench.task, folder=folder, manifest=bench.manifest(),
              factory=poisoned(7, how), checkpoint=CheckpointEvery(steps=every))  # fmt: skip

    with pytest.raises(NonFinite, match=r"step [78]\b") as caught:
        go()
    state = folder.load_checkpoint()
    assert state["step"] <= 7
    assert state["step"] > 7 - every
    for values in (state["model"], *state["optimizer"]["state"].values()):
        assert all(torch.as_tensor(v).isfinite().all() for v in values.values())
    rows = sum(pq.read_metadata(p).num_rows for p in (folder.path / "steps").iterdir())
    assert rows == state["step"]
    assert not folder.finished
    assert not (folder.path / "steps.parquet").exists()
    assert not (folder.path / "model.safetensors").exists()
    if how == "loss":
        whole = lab(method="uniform")
        whole.factory = dropout
        reference = RunFolder(bench.path / "reference")
        train(bench.config, bench.task, folder=reference, manifest=bench.manifest(),
              factory=poisoned(-5, how))  # fmt: skip
        ids = read_steps(reference.path)["ids"].to_pylist()[7]
        assert f"(ids {ids[1]})" in str(caught.value)
        assert "step 7" in str(caught.value)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_the_last_step_is_watched_too(how, lab):
    """With nothing after it that would notice: no weights that are NaN are ever handed out."""
    bench = lab(method="uniform", epochs=2)
    folder = RunFolder(bench.path / "run")
    with pytest.raises(NonFinite, match=r"step [56]\b"):
        train(bench.config, bench.task, folder=folder, manifest=bench.manifest(),
              factory=poisoned(5, how))  # fmt: skip
    assert not folder.finished
    assert not (folder.path / "model.safetensors").exists()


def test_a_score_that_is_nan_names_the_step_and_the_ids(lab):
    bench = lab(method="loss", lr=1e30)
    with pytest.raises(NonFinite, match=r"step \d+: .*ids \d+"):
        bench.run("run")


def test_a_folder_named_like_a_setting_keeps_its_log(lab):
    bench = lab(method="uniform")
    folder = bench.stopped("lr=0.5/epoch=3", 6)
    bench.run("lr=0.5/epoch=3")
    log = read_steps(folder.path)
    assert log.num_rows == 12
    assert set(log["lr"].to_pylist()) == {3e-3}


def test_the_manifest_is_readable_json_without_nan(lab):
    folder, _ = lab(method="uniform").run("run")
    text = (folder.path / "manifest.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["versions"]["torch"] == torch.__version__


def test_a_mask_of_infinities_is_no_reason_to_stop(lab):
    class Masked(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
            mask = nn.Transformer.generate_square_subsequent_mask(classes)
            self.register_buffer("mask", mask)

        def forward(self, x):
            return self.net(x) + self.mask[-1]

    bench = lab(method="uniform", epochs=1)
    folder = RunFolder(bench.path / "run")
    train(bench.config, bench.task, folder=folder, manifest=bench.manifest(), factory=Masked,
          checkpoint=CheckpointEvery(steps=1))  # fmt: skip
    assert folder.finished
