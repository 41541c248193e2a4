"""Facts that help texts and documents state are those that the code goes by."""

from pathlib import Path

import pytest
import torch
import tyro
from test_import_rule import ALLOWED

from goldiprox.commands.exchange import _AskedData
from goldiprox.commands.shared import Data
from goldiprox.config import POOL_RATIO, TrainConfig
from goldiprox.data.datasets import dataset_names
from goldiprox.precompute.diet_scores import predictive_entropy
from goldiprox.schema import Evidence
from goldiprox.selection.coreset import prediction_entropy

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("data", [Data, _AskedData])
def test_help_names_every_data_set(data, capsys):
    with pytest.raises(SystemExit):
        tyro.cli(data, args=["--help"])
    words = {word.strip("(),.") for word in capsys.readouterr().out.split()}
    assert set(dataset_names()) <= words


def test_the_documents_name_every_data_set():
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    assert [name for name in dataset_names() if f"`{name}`" not in text] == []


def test_the_default_pool_is_the_stated_one():
    assert TrainConfig(batch=7).pool_size == 7 * POOL_RATIO
    with pytest.raises(Exception, match=f"the pool is {POOL_RATIO} x batch unless given"):
        TrainConfig(batch=7).steps_per_epoch(7)
    assert f"{POOL_RATIO} x batch unless given" in (
        Path(__file__).parents[2] / "src" / "goldiprox" / "config.py"
    ).read_text(encoding="utf-8")


def test_entropy_of_the_diet_and_of_core_sets_is_one():
    log_probs_BC = torch.log_softmax(torch.randn(20, 5), 1)
    log_probs_BC[0] = torch.tensor([0.0, *[-torch.inf] * 4])
    entropy_B = predictive_entropy(log_probs_BC)
    assert float(entropy_B[0]) == 0.0
    evidence = Evidence(ids_B=torch.arange(20), log_probs_BC=log_probs_BC)
    assert torch.equal(prediction_entropy(evidence), entropy_B)
    torch.testing.assert_close(entropy_B, torch.special.entr(log_probs_BC.exp()).sum(1))


def rows():
    """Rooms and what they may import, as docs/architecture.md states it."""
    lines = (DOCS / "architecture.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| room | what lives there | may import |") + 2
    for line in lines[start:]:
        if not line.startswith("|"):
            return
        room, _, allowed = (cell.strip() for cell in line.strip("|").split("|"))
        yield room.strip("`").removesuffix(".py").removesuffix("/"), allowed


def test_the_architecture_states_the_import_rule():
    table = dict(rows())
    assert set(table) == set(ALLOWED) - {""}
    for room, stated in table.items():
        allowed = ALLOWED[room]
        if stated.startswith("all above"):
            above = set(list(table)[: list(table).index(room)])
            assert allowed == above - set(stated.partition("but ")[2].split(", ")), room
        else:
            assert set(stated.replace("nothing", "").split(", ")) - {""} == allowed, room
