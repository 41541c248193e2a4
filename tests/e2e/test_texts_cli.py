"""Texts on the command line: GLUE's files and a tiny transformers folder, both made here."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from command_line import fails, run

from goldiprox.records.mapped import open_table
from goldiprox.records.runs import RunFolder
from goldiprox.records.sequences import BatchSequence
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable

transformers = pytest.importorskip("transformers")

WORDS = ["the", "a", "film", "plot", "was", "is", "never", "and", "cast", "story"]
SIGNS = (["dull", "bad"], ["good", "fine"])
TRAIN, TEST = 160, 50
SMALL = ("--pool", 40, "--batch", 8, "--epochs", 2, "--max-length", 16, "--lr", 3e-3)
IL = ("--il.epochs", 2)


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Sentences of 2 to 9 words with a word that tells the label."""
    drawn = random.Random(seed)
    found = []
    for _ in range(count):
        label = drawn.randrange(2)
        words = drawn.choices(WORDS, k=drawn.randint(1, 8))
        words.insert(drawn.randrange(len(words) + 1), drawn.choice(SIGNS[label]))
        found.append((" ".join(words), label))
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SST-2 and CoLA in the layouts of GLUE's archive."""
    path = tmp_path_factory.mktemp("glue")
    for folder in ("SST-2", "CoLA"):
        (path / folder).mkdir()
        for name, count, seed in (("train", TRAIN, 0), ("dev", TEST, 1)):
            rows = sentences(count, seed)
            lines = [f"{text}\t{label}" for text, label in rows]
            if folder == "CoLA":
                lines = [f"gj04\t{label}\t\t{text}" for text, label in rows]
            head = [] if folder == "CoLA" else ["sentence\tlabel"]
            (path / folder / f"{name}.tsv").write_text("\n".join([*head, *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that knows these words, as the library itself saves it."""
    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *SIGNS[0], *SIGNS[1]]
    (path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(path / "vocab.txt"), model_max_length=16).save_pretrained(path)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.BertModel(config).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may need the network; the setting is read when the package is imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def compare(home: Path, bert: Path, out: Path) -> None:
    run("compare", "sst2", "--data-dir", home, "--model", bert, "--methods", "uniform,rho-loss",
        "--proxy", "bag-of-embeddings", "--label-noise", 0.1, "--seeds", 1, *SMALL, *IL,
        "--out", out)  # fmt: skip


@pytest.fixture(scope="module")
def comparison(home: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("texts") / "out"
    compare(home, bert, out)
    return out


def test_a_comparison_on_texts_has_all_that_one_on_images_has(comparison: Path) -> None:
    found = json.loads((comparison / "comparison.json").read_text())
    assert (found["dataset"], found["data"]["sizes"]["train"]) == ("sst2", TRAIN / 2)
    entries = {entry["method"]: entry for entry in found["methods"]}
    assert set(entries) == {"uniform", "rho-loss", "goldiprox"}
    for entry in entries.values():
        assert -1 <= entry["final_matthews"]["mean"] <= 1
        assert entry["ledger"]["phases"]["training"]["flops"] > 0
    assert found["irreducible"]["model"] == "bag-of-embeddings"
    assert found["proxy"]["rank_correlations"]["replayed"][-1]["epoch"] == 2
    page = (comparison / "report.html").read_text()
    assert "Matthews" in page
    assert "goldiprox" in page
    shown = pq.read_table(comparison / "examples.parquet")
    assert all(shown["text"].to_pylist())
    scoring = {name: entry["ledger"]["phases"]["scoring"] for name, entry in entries.items()}
    assert scoring["rho-loss"]["flops"] > 0 == scoring["goldiprox"]["flops"]


def test_the_same_command_again_trains_nothing(comparison: Path, home: Path, bert: Path) -> None:
    before = (comparison / "comparison.json").read_bytes()
    times = {p: p.stat().st_mtime_ns for p in comparison.glob("**/result.json")}
    assert len(times) == 5  # three runs, the proxy, the irreducible-loss model
    compare(home, bert, comparison)
    assert (comparison / "comparison.json").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in comparison.glob("**/result.json")} == times


def test_one_models_batches_serve_another_with_another_tokenizer(
    home: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cola = ("train", "cola", "--data-dir", home)
    run(*cola, "--model", "bag-of-embeddings", "--method", "loss", *SMALL, "--out", tmp_path / "a",
        "--record", tmp_path / "s.parquet")  # fmt: skip
    run(*cola, "--model", bert, "--max-length", 16, "--out", tmp_path / "b",
        "--replay", tmp_path / "s.parquet")  # fmt: skip
    recorded = [s.ids_k.tolist() for s in BatchSequence.open(tmp_path / "s.parquet").steps()]
    assert [len(ids) for ids in recorded] == [8, 8] * 2
    for name in "ab":
        assert read_steps(tmp_path / name)["ids"].to_pylist() == recorded
        assert RunFolder(tmp_path / name).evaluations()[-1]["matthews"] is not None
    run("sequence", "show", tmp_path / "s.parquet", "--dataset", "cola", "--data-dir", home)
    assert "fits  yes: cola" in capsys.readouterr().out
    line = fails(capsys, *cola, "--model", bert, "--out", tmp_path / "c",
                 "--replay", tmp_path / "s.parquet", "--label-noise", 0.1)  # fmt: skip
    assert "was recorded on other labels" in line


def test_a_table_from_words_serves_any_tokenizer(
    home: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sst2 = ("sst2", "--data-dir", home)
    run("irreducible", *sst2, "--model", "bag-of-embeddings", "--epochs", 2, "--batch", 16,
        "--out", tmp_path / "il.parquet")  # fmt: skip
    run("table", "convert", tmp_path / "il.parquet", "--out", tmp_path / "il.arrow")
    for name in ("il.parquet", "il.arrow"):
        run("train", *sst2, "--model", bert, *SMALL, "--irreducible", tmp_path / name,
            "--out", tmp_path / f"run-{name}")  # fmt: skip
    one, other = (read_steps(tmp_path / f"run-il.{n}")["ids"] for n in ("parquet", "arrow"))
    assert one.to_pylist() == other.to_pylist()
    # Weights without the numbers of their words would give losses of nonsense.
    torch.save({}, tmp_path / "w.pt")
    made = ("irreducible", *sst2, "--weights", tmp_path / "w.pt", "--out", tmp_path / "x.parquet")
    line = fails(capsys, *made, "--model", "bag-of-embeddings")
    assert "numbers words by the texts that it was trained on" in line
    assert "--tokenizer" in line


def test_weights_of_a_text_model_score_with_the_tokenizer_named(
    home: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sst2 = ("sst2", "--data-dir", home)
    run("train", *sst2, "--model", "bag-of-embeddings", "--tokenizer", bert, "--method", "uniform",
        *SMALL, "--out", tmp_path / "r")  # fmt: skip
    made = ("irreducible", *sst2, "--model", "bag-of-embeddings",
            "--weights", tmp_path / "r" / "model.safetensors", "--tokenizer", bert)  # fmt: skip
    losses = {}
    for length in (16, 4):
        path = tmp_path / f"{length}.parquet"
        run(*made, "--max-length", length, "--out", path)
        losses[length] = ScoreTable.read(path).columns[IRREDUCIBLE_LOSS]
    assert (losses[16] != losses[4]).any()  # cut to four tokens most texts lose their sign
    line = fails(capsys, *made, "--max-length", 99, "--out", tmp_path / "x.parquet")
    assert "--max-length 99 is more than the 16 tokens" in line


def test_texts_are_scored_without_what_only_vectors_have(
    home: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sst2 = ("sst2", "--data-dir", home, "--model", bert)
    line = fails(capsys, "score", *sst2, "--max-length", 16, "--out", tmp_path / "s.parquet")
    assert "input-norm is the length of a vector" in line
    assert "--scores el2n,grand,forgetting" in line
    line = fails(capsys, "score", *sst2, "--out", tmp_path / "s.parquet")
    assert "--max-length 128 is more than the 16 tokens" in line
    words = ("sst2", "--data-dir", home, "--model", "bag-of-embeddings")
    assert "use goldiprox score" in fails(capsys, "diet", *words, "--out", tmp_path / "d")
    assert list(tmp_path.iterdir()) == []
    run("score", *sst2, "--max-length", 16, "--scores", "el2n,grand,forgetting", "--replicas", 1,
        "--epoch", 1, "--batch", 16, "--out", tmp_path / "s.parquet")  # fmt: skip
    table = open_table(tmp_path / "s.parquet")
    assert len(table) == TRAIN
    run("table", "show", tmp_path / "s.parquet", "--dataset", "sst2", "--data-dir", home)
    assert "fits  yes: sst2, its labels" in capsys.readouterr().out
    run("prune", tmp_path / "s.parquet", "--by", "el2n", "--keep", 0.5,
        "--out", tmp_path / "kept.parquet")  # fmt: skip
    run("train", *sst2, *SMALL, "--pool", 16, "--method", "uniform",
        "--subset", tmp_path / "kept.parquet", "--out", tmp_path / "r")  # fmt: skip
    chosen = {i for ids in read_steps(tmp_path / "r")["ids"].to_pylist() for i in ids}
    assert chosen <= set(ScoreTable.read(tmp_path / "kept.parquet").ids_N.tolist())


def test_confusions_of_texts_are_counted(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    run("confusion", "cola", "--data-dir", home, "--model", "bag-of-embeddings", "--epochs", 1,
        "--batch", 16, "--out", out)  # fmt: skip
    found = json.loads(out.read_text())
    assert found["class_names"] == ["unacceptable", "acceptable"]
    assert sum(map(sum, found["matrix"])) > 0


def test_models_that_do_not_fit_are_refused_before_anything_is_trained(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train", "sst2", "--data-dir", home, *SMALL, "--out", tmp_path / "o")
    assert "takes images and these examples are texts" in fails(capsys, *train, "--model", "mlp")
    line = fails(capsys, *train)  # the default is on the hub
    assert '"albert/albert-base-v2"' in line
    assert "when offline, put config.json" in line
    (tmp_path / "none").mkdir()
    line = fails(capsys, "train", "cola", "--data-dir", tmp_path / "none", "--out", tmp_path / "o")
    assert "train.tsv and dev.tsv" in line
    assert not (tmp_path / "o").exists()
