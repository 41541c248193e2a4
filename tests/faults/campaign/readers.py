"""One file of each kind that the project reads, and how it is read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from PIL import Image
from trials import warm_up

from goldiprox.data.confusion import read_matrix
from goldiprox.data.datasets import load
from goldiprox.records.examples import read_examples, write_examples
from goldiprox.records.files import read_json, write_json
from goldiprox.records.mapped import open_table, write_mapped
from goldiprox.records.parts import Parts
from goldiprox.records.plain_tables import read_plain
from goldiprox.records.runs import RunFolder
from goldiprox.records.sequences import BatchSequence
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import ScoreTable


@dataclass(frozen=True)
class Reader:
    """How one file is read.

    Attributes:
        name: of the kind.
        path: the file that is mutated.
        read: reads it, and gives what it holds.
        ours: whether it is a file of this project, in which no change may go unnoticed.
    """

    name: str
    path: Path
    read: Callable[[], Any]
    ours: bool = True

    def value(self) -> str:
        """A digest of what it holds."""
        return hashlib.sha256(_plain(self.read()).encode()).hexdigest()


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return str({key: _plain(item) for key, item in value.items()})
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    return repr(value)


def make_readers(home: Path) -> list[Reader]:
    """Write the files below a folder; :func:`trials.warm_up` trains the run."""
    warm_up("record", home / "run")
    run = RunFolder(home / "run" / "out")
    return [
        *_of_a_run(run, home),
        *_of_an_unfinished_run(home / "going"),
        *_tables(home),
        *_users(home),
    ]


def _of_a_run(run: RunFolder, home: Path) -> list[Reader]:
    def sequence() -> Any:
        found = BatchSequence.open(home / "run" / "seq.parquet")
        found.require_intact()
        return [str(found.provenance), [str(step) for step in found.steps()]]

    def all_of_it() -> Any:
        run.use_again()
        return [run.result(), run.evaluations(), run.ledger(), run.manifest()]

    reads: dict[str, Callable[[], Any]] = {
        "result.json": run.result,
        "evaluations.json": run.evaluations,
        "ledger.json": run.ledger,
        "manifest.json": all_of_it,
        "files.json": all_of_it,
        "steps.parquet": lambda: read_steps(run.path).to_pydict(),
        "model.safetensors": lambda: run.load_weights("model"),
    }
    readers = [Reader(name, run.path / name, read) for name, read in reads.items()]
    return [*readers, Reader("sequence", home / "run" / "seq.parquet", sequence)]


def _of_an_unfinished_run(path: Path) -> list[Reader]:
    run = RunFolder(path)
    run.open({"config": {"seed": 0}, "config_hash": "of 0"})
    run.save_checkpoint(6, {"step": 6, "model": {"w": torch.arange(64.0)}})
    run.save_weights("weights/epoch-0001", {"w": torch.arange(64.0)})
    parts = Parts(path, "steps", "step log", "delete it")
    parts.write(pa.table({"step": [0, 1, 2], "loss": [0.5, 0.25, 0.125]}))
    [part] = parts.folder.iterdir()
    [checkpoint] = path.glob("checkpoint-*.pt")

    def rows() -> Any:
        parts.require(0, 3)
        return pa.concat_tables(parts.tables()).to_pydict()

    return [
        Reader("checkpoint", checkpoint, run.load_checkpoint),
        Reader("part", part, rows),
        Reader(
            "kept weights",
            path / "weights" / "epoch-0001.safetensors",
            lambda: run.load_weights("weights/epoch-0001"),
        ),
    ]


def _tables(home: Path) -> list[Reader]:
    scores, mapped, examples, note = (
        home / name for name in ("s.parquet", "s.arrow", "e.parquet", "n.json")
    )
    generator = np.random.default_rng(0)
    table = ScoreTable(
        ids_N=np.arange(300),
        columns={"a": generator.random(300), "label": np.arange(300) % 10},
        provenance={"fingerprint": "f", "kind": "scores", "ledger": {"phases": {}}},
    )
    table.write(scores)
    write_mapped(table, mapped)
    write_examples(examples, pa.table({"id": [1, 2], "image": [b"png", b"gif"], "why": ["x", "y"]}))
    write_json(note, {"a": 1, "deep": [{"b": 0.5, "c": None, "d": "text"}]})

    def in_memory() -> Any:
        found = ScoreTable.read(scores)
        return [_plain(found.ids_N), _plain(dict(found.columns)), dict(found.provenance)]

    def from_disk() -> Any:
        found = open_table(mapped)
        if hasattr(found, "require_intact"):
            found.require_intact()
        ids = torch.arange(300)
        looked = [_plain(found.lookup(name)(ids)) for name in found.names]
        return [found.names, len(found), looked, dict(found.provenance)]

    return [
        Reader("score table", scores, in_memory),
        Reader("mapped table", mapped, from_disk),
        Reader("examples", examples, lambda: read_examples(examples)),
        Reader("json", note, lambda: read_json(note)),
    ]


def _users(home: Path) -> list[Reader]:
    generator = np.random.default_rng(0)
    images, folder = home / "images.parquet", home / "folder"
    encoded = []
    for number in range(12):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "png")
        encoded.append(buffer.getvalue())
        place = folder / f"class-{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(buffer.getvalue())
    labels = [number % 2 for number in range(12)]
    pq.write_table(
        pa.table({"image": [{"bytes": b, "path": None} for b in encoded], "label": labels}),
        images,
        write_page_checksum=True,
    )
    texts = pa.table({"text": [f"the text {n}" for n in range(12)], "label": labels})
    pa.csv.write_csv(texts, home / "t.csv")
    lines = "\n".join(json.dumps(row) for row in texts.to_pylist())
    (home / "t.jsonl").write_text(lines)
    pq.write_table(texts, home / "t.parquet")
    values = pa.table({"id": range(12), "loss": np.linspace(0, 1, 12)})
    pa.csv.write_csv(values, home / "v.csv")
    pq.write_table(values, home / "v.parquet")
    (home / "m.json").write_text("[[0.9, 0.1], [0.2, 0.8]]")

    def plain(path: Path) -> Callable[[], Any]:
        return lambda: str(read_plain(path, {"id": "--id-column", "loss": "--value-column"}))

    def data(path: Path) -> Callable[[], Any]:
        return lambda: load(str(path)).fingerprint

    return [
        Reader("images in Parquet", images, data(images), ours=False),
        Reader("an image in a folder", folder / "class-1" / "3.png", data(folder), ours=False),
        *(
            Reader(f"texts in {path.suffix}", path, data(path), ours=False)
            for path in (home / "t.csv", home / "t.jsonl", home / "t.parquet")
        ),
        Reader("values in CSV", home / "v.csv", plain(home / "v.csv"), ours=False),
        Reader("values in Parquet", home / "v.parquet", plain(home / "v.parquet"), ours=False),
        Reader(
            "noise matrix",
            home / "m.json",
            lambda: str(read_matrix(str(home / "m.json"), ["a", "b"])),
            ours=False,
        ),
    ]
