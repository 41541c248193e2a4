"""What a file holds is shown and compared, and never imported, followed or unfolded without limit.

Each of these succeeds for the attacker in version 0.1.0.
"""

import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import goldiprox.guarded.parquet as limits
from goldiprox.data.datasets import load
from goldiprox.guarded.parquet import RATIO, read_parquet
from goldiprox.models.registry import model_factory, tokenizer_for
from goldiprox.names import FromFile
from goldiprox.records.files import read_json, whole_file, write_json
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError, GoldiproxError, TableError
from goldiprox.selection.methods import method


@pytest.fixture
def evil(tmp_path, monkeypatch):
    for name in ("evilmod", "othermod"):
        (tmp_path / f"{name}.py").write_text("open('was-run', 'w').close()\ndef F(*_): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evilmod", raising=False)
    return tmp_path / "was-run"


def table_that_names(path, **provenance):
    ScoreTable(ids_N=[0, 1], columns={"x": [0.5, 1.0]}, provenance=provenance).write(path)
    return ScoreTable.read(path).provenance


def test_a_model_named_by_a_table_is_not_imported(evil, tmp_path):
    name = table_that_names(tmp_path / "t.parquet", model="evilmod:F")["model"]
    with pytest.raises(ConfigError, match='a file names the model "evilmod:F"'):
        model_factory(name)
    assert not evil.exists()
    assert model_factory("evilmod:F") is sys.modules["evilmod"].F  # the user's own word
    assert evil.exists()


@pytest.mark.parametrize("name", ["othermod:F", "othermod:F@gumbel=0.5"])
def test_a_method_named_by_a_record_is_not_imported(name, evil, tmp_path):
    write_json(tmp_path / "m.json", {"arm": name, "deep": [{"er": name}]})
    found = read_json(tmp_path / "m.json")
    for text in (found["arm"], found["deep"][0]["er"]):
        assert isinstance(text, FromFile)
        with pytest.raises(ConfigError, match="never imported"):
            method(text)
    assert not evil.exists()
    assert method(FromFile("rho-loss@gumbel=0.5")).name == "rho-loss@gumbel=0.5"  # registered


def test_a_hub_name_in_a_file_is_not_downloaded():
    for look in (
        lambda: model_factory(FromFile("somebody/model"), text=True),
        lambda: tokenizer_for("small-transformer", FromFile("somebody/model"), list, 8),
        lambda: tokenizer_for(FromFile("somebody/model"), None, list, 8),
    ):
        with pytest.raises(ConfigError, match="never imported or downloaded"):
            look()


def test_a_link_planted_under_the_old_temporary_name_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".k.json.{os.getpid()}.part").symlink_to(victim)
    write_json(tmp_path / "k.json", {"a": 1})
    assert victim.read_text() == "precious"
    assert read_json(tmp_path / "k.json") == {"a": 1}


def test_temporary_names_cannot_be_guessed_and_a_swapped_one_is_not_written_to(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = set()
    for _ in range(2):
        with whole_file(tmp_path / "k") as temporary:
            [part] = [p for p in tmp_path.iterdir() if p.name.endswith(".part")]
            names.add(part.name)
            part.unlink()
            part.symlink_to(victim)
            temporary.write_text("new")  # by its handle, not by its name
        assert victim.read_text() == "precious"
        (tmp_path / "k").unlink(missing_ok=True)
    assert len(names) == 2


SMALL = 1 << 20
"""The allowance in these tests: the real one would take seconds to exceed."""

BOMBS = {
    "a run of one letter": {"t": ["a" * (SMALL * 2)]},
    "one long entry named often": {"t": ["x" * 5_000] * 2_000},
    "packed numbers": {"t": np.zeros(4 * SMALL, dtype=np.int8)},
}


@pytest.mark.parametrize("how", BOMBS)
def test_a_small_file_cannot_unfold_without_limit(how, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ALLOWANCE", SMALL)
    path = tmp_path / "bomb.parquet"
    options = {"use_dictionary": False} if how == "a run of one letter" else {}
    pq.write_table(pa.table(BOMBS[how]), path, compression="zstd", **options)
    with pytest.raises(TableError, match=f"would unfold to .*{RATIO} times its size") as refused:
        read_parquet(path, f"table {path}")
    assert "\n" not in str(refused.value)


def test_what_compresses_well_is_still_read(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"text": ["the same text again"] * 100_000, "id": np.arange(100_000)})
    pq.write_table(table, path, compression="zstd")
    assert read_parquet(path, "table").equals(table)


def test_page_checksums_of_anybodys_parquet_are_verified(tmp_path):
    path = tmp_path / "t.parquet"
    values = np.arange(1000, dtype=np.float64)
    pq.write_table(pa.table({"a": values}), path, compression="none", use_dictionary=False,
                   write_page_checksum=True)  # fmt: skip
    raw = bytearray(path.read_bytes())
    raw[raw.index(values[500].tobytes()) + 3] ^= 4
    path.write_bytes(raw)
    with pytest.raises(GoldiproxError, match=r"t\.parquet is damaged"):
        read_parquet(path, f"table {path}")


def test_a_text_in_parquet_that_is_not_utf8_is_one_line(tmp_path):
    raw = pa.array([b"a\xf8b"] * 4)
    texts = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"text": texts, "label": [0, 1, 0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(GoldiproxError, match=r"t\.parquet.*UTF-?8"):
        load(str(tmp_path / "t.parquet"))
