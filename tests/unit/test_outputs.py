"""Outputs that cannot be written are found at once, and nothing foreign is replaced."""

import numpy as np
import pytest

from goldiprox.commands.data_diet import prune
from goldiprox.commands.exchange import _convert
from goldiprox.records.files import write_json
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError
from goldiprox.selection.pruning import PruneRule
from goldiprox.workflows.outputs import (
    is_confusion,
    is_page,
    is_sequence_by,
    require_output,
    require_writable,
)
from goldiprox.workflows.report import report_runs, require_page


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "s.parquet"
    values = np.arange(50, dtype=np.float32)
    ScoreTable(ids_N=np.arange(50), columns={"el2n": values}, provenance={}).write(path)
    return path


@pytest.mark.parametrize(
    ("name", "folder", "says"),
    [
        ("file", True, "is a file, and a folder is to be written"),
        ("folder", False, "is a folder, and a file is to be written"),
        ("file/below", True, "is a file, not a folder"),
        ("file/below/deeper.parquet", False, "is a file, not a folder"),
        ("x" * 300, True, "File name too long"),
        ("x" * 300 + "/below", False, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_refused(name, folder, says, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=f"^--out .*{says}"):
        require_writable(tmp_path / name, folder=folder)


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # who is root may write anywhere
    for folder in (True, False):
        with pytest.raises(ConfigError, match=r"--record .*permission denied"):
            require_writable(tmp_path / "a" / "b", folder=folder, flag="--record")


@pytest.mark.parametrize("name", ["new", "folder", "new/below"])
def test_what_can_be_written_is_accepted(name, tmp_path):
    (tmp_path / "folder").mkdir()
    require_writable(tmp_path / name, folder=True)


def test_prune_replaces_only_what_it_has_written(scores, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    before = scores.read_bytes()
    for out, says in ((scores, "is what this command reads"), (notes, "was not made by")):
        with pytest.raises(ConfigError, match=f"{says}.*--overwrite"):
            prune(scores, PruneRule(keep=0.5), out, by="el2n")
    assert (scores.read_bytes(), notes.read_text()) == (before, "mine")
    kept = tmp_path / "kept.parquet"
    for keep in (0.5, 0.2):  # its own product
        prune(scores, PruneRule(keep=keep), kept, by="el2n")
    assert len(ScoreTable.read(kept)) == 10
    prune(scores, PruneRule(keep=0.5), notes, by="el2n", overwrite=True)
    assert len(ScoreTable.read(notes)) == 25


def test_a_link_to_an_input_is_that_input(scores, tmp_path):
    link = tmp_path / "link.parquet"
    link.symlink_to(scores)
    with pytest.raises(ConfigError, match="is what this command reads"):
        prune(scores, PruneRule(keep=0.5), link, by="el2n")


def test_convert_replaces_the_same_table_only(scores, tmp_path):
    mapped = tmp_path / "s.arrow"
    _convert(scores, mapped)
    _convert(scores, mapped)
    other = tmp_path / "other.parquet"
    ScoreTable(ids_N=np.arange(9), columns={}, provenance={"kind": "kept"}).write(other)
    with pytest.raises(ConfigError, match="was not made by this command"):
        _convert(other, mapped)
    _convert(other, mapped, overwrite=True)


def test_foreign_files_are_no_products(tmp_path):
    text, listed = tmp_path / "notes", tmp_path / "list.json"
    text.write_bytes(b"\xff\xfe mine")
    write_json(listed, [1, 2])
    for owned in (is_confusion, is_page, is_sequence_by("cut")):
        for path in (text, listed):
            with pytest.raises(ConfigError, match="was not made by this command"):
                require_output(path, owned)


def test_a_report_never_goes_into_the_folder_of_something_else(tmp_path):
    home, run, mine = tmp_path / "home", tmp_path / "run", tmp_path / "mine"
    for folder in (home, run, mine):
        folder.mkdir()
    (run / "manifest.json").write_text("{}")
    (mine / "report.html").write_text("<html>mine</html>")
    with pytest.raises(ConfigError, match="a run or study of its own"):
        require_page(home, run, overwrite=False)
    with pytest.raises(ConfigError, match=r"report\.html exists and was not made"):
        require_page(home, mine, overwrite=False)
    require_page(home, mine, overwrite=True)
    require_page(run, run, overwrite=False)  # a study's page lies in its own folder
    write_json(mine / "comparison.json", {"settings": {}, "versions": {}})
    (mine / "report.html").write_text('<p class="maker">goldiprox compare</p>')
    require_page(home, mine, overwrite=False)


def test_what_is_no_run_is_said_in_one_line(tmp_path):
    (tmp_path / "README.md").write_text("# mine")
    for name, says in (("README.md", "is a file"), ("nowhere", "does not exist")):
        with pytest.raises(ConfigError, match=f"{says}; report takes run folders"):
            report_runs([tmp_path / name], tmp_path / "page")
    model = tmp_path / "irreducible"
    body = {"data": {}, "irreducible": {}}
    RunFolder(model).open({"config": body, "config_hash": "h", "data": {}})
    with pytest.raises(ConfigError, match="a run of another kind"):
        report_runs([model], tmp_path / "page")
    study = tmp_path / "study"
    write_json(study / "manifest.json", {"settings": {"diet": {}}})
    with pytest.raises(ConfigError, match="the output folder of a whole study"):
        report_runs([study, model], tmp_path / "page")
