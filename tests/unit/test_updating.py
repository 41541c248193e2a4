"""rho-loss-updating: the irreducible-loss model itself goes on learning, and is charged."""

import dataclasses

import numpy as np
import pytest
import torch

from goldiprox.config import CompareConfig, IrreducibleConfig
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import TableError
from goldiprox.selection.methods import method
from goldiprox.workflows.compare import compare
from goldiprox.workflows.irreducible import companion_of

UPDATING = "rho-loss-updating"
SMALL = CompareConfig(
    methods=("uniform", "rho-loss", UPDATING), model="mlp-128", batch=(4,), epochs=2, seeds=1
)
IL = IrreducibleConfig(model="mlp-128", epochs=2, batch=16)


@pytest.fixture
def splits(make_tiny_splits):
    return make_tiny_splits(count=200, label_noise=0.2)


def test_the_companion_is_the_model_that_made_the_table(splits, tmp_path):
    found = compare(splits, SMALL, tmp_path, irreducible=IL)
    table = ScoreTable.read(tmp_path / "irreducible.parquet")
    model = companion_of(method(UPDATING), table, splits)
    with torch.no_grad():
        raw = splits.train.fetch(torch.arange(len(splits.train)))
        logits = model.eval()(splits.preprocess(raw, None, device=torch.device("cpu")))
        losses = torch.nn.functional.cross_entropy(logits, splits.train.targets_N, reduction="none")
    assert np.allclose(losses, table.columns[IRREDUCIBLE_LOSS], atol=1e-5)
    # At a hundredth of the learning rate the first choice is that of the frozen model.
    first = [
        set(read_steps(tmp_path / "runs" / f"{name}-0")["ids"][0].as_py())
        for name in ("rho-loss", UPDATING)
    ]
    assert first[0] == first[1]
    entries = {entry.method: entry for entry in found.methods}
    frozen, updated = (entries[n].ledger.to_json()["phases"] for n in ("rho-loss", UPDATING))
    assert updated["irreducible-training"] == frozen["irreducible-training"]
    assert updated["scoring"]["flops"] > frozen["scoring"]["flops"]
    assert companion_of(method("rho-loss"), table, splits) is None
    assert companion_of(method(UPDATING), None, splits) is None


def test_what_has_no_single_model_beside_it_is_refused(splits, tmp_path):
    config = dataclasses.replace(SMALL, methods=("uniform", UPDATING))
    two = dataclasses.replace(IL, members=2)
    with pytest.raises(TableError, match="was made by 2 that is known"):
        compare(splits, config, tmp_path / "two", irreducible=two)
    assert not (tmp_path / "two" / "runs").exists()
    compare(splits, dataclasses.replace(SMALL, seeds=1), tmp_path / "one", irreducible=IL)
    table = ScoreTable.read(tmp_path / "one" / "irreducible.parquet")
    table.write(tmp_path / "alone.parquet")
    alone = ScoreTable.read(tmp_path / "alone.parquet")
    with pytest.raises(TableError, match=r"not beside .*alone\.parquet"):
        companion_of(method(UPDATING), alone, splits)
    weights = RunFolder(tmp_path / "one" / "irreducible").load_weights("model")
    first = next(iter(weights))
    RunFolder(tmp_path / "alone.parquet.run").save_weights(
        "model", {**weights, first: weights[first] + 1}
    )
    with pytest.raises(TableError, match="are not those that made"):
        companion_of(method(UPDATING), alone, splits)
