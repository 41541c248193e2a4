"""Run folders: manifest, checkpoint, weights, evaluations, ledger, result.

====================  =========================================================================
``manifest.json``     configuration, versions, fingerprints, seeds; written first
``steps.parquet``     the step log (parts under ``steps/`` until the run is finished)
``evaluations.json``  accuracy and loss along the run, with the costs paid until then
``ledger.json``       costs by phase
``model.safetensors`` final weights
``files.json``        SHA-256 of all of these, and which run they are of
``result.json``       written last; a run without it is unfinished
``checkpoint-*.pt``   where an unfinished run goes on; the name carries the file's digest
====================  =========================================================================

Everything is compared with its digest when it is read. Folders of version 0.1.0 have none: they are
read as they are, and not written to.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from goldiprox.guarded.errors import reading, require_file
from goldiprox.guarded.json_files import Shape
from goldiprox.guarded.tensors import read_tensors
from goldiprox.records.circumstances import as_json, changes, first_difference, versions
from goldiprox.records.files import (
    read_json,
    sha256_of,
    whole_file,
    write_json,
)
from goldiprox.records.ledger import LEDGER
from goldiprox.records.owner import sweep, writing
from goldiprox.records.parts import run_key, tagged
from goldiprox.records.weights import seal_of, weights_bytes, with_seal
from goldiprox.schema import CheckpointError

__all__ = ["RunFolder"]

FORMAT = 2
_CHECKPOINT = re.compile(r"checkpoint-(\d{12})-([0-9a-f]{16})\.pt")

FILES = "files.json"
_UNLISTED = (FILES, "result.json")

MANIFEST: Shape = {
    "format": int, "config": dict, "config_hash": str, "versions": dict, "data?": dict,
    "model?": dict, "irreducible?": dict, "resumed?": [dict],
}  # fmt: skip
METRIC: Shape = {"name": str, "title": str, "higher_is_better": bool, "unit": str}
RESULT: Shape = {"steps": int, "weights_digest": str, "metric?": METRIC, "metrics?": [METRIC]}
EVALUATIONS: Shape = [{"step": int, "epoch?": float, "seconds?": float, "flops?": float}]

logger = logging.getLogger("goldiprox")


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one process that writes here; sweep what a killed one has left.

        Raises:
            CheckpointError: if another process writes here.
        """
        with writing(self.path):
            self._sweep()
            yield

    def open(self, manifest: dict[str, Any], *, exact: bool = False) -> None:
        """Start a run here, or go on with the one that is here.

        Gone on with under other versions, threads or processor capabilities, the last digits may
        come out differently: that is said, and noted in the manifest under ``resumed``.

        Args:
            manifest: what the run is; its ``config_hash`` identifies it.
            exact: refuse to go on under other versions and so on.

        Raises:
            CheckpointError: if the folder holds a run of another configuration or other data, or
                an unfinished one of version 0.1.0, or ``exact`` and the versions differ.
        """
        file = self.path / "manifest.json"
        if not file.exists():
            self._require_no_orphans()
            write_json(file, {"format": FORMAT, **manifest, "versions": versions()})
            return
        found = self.manifest()
        if found["config_hash"] != manifest["config_hash"]:
            self._refuse(first_difference(found["config"], manifest["config"]))
        there, here = ((m.get("data") or {}).get("fingerprint") for m in (found, manifest))
        if there != here and None not in (there, here):
            self._refuse(f"the data have the fingerprint {there} there, {here} now")
        if self.finished:
            if exact:
                self._require_same_circumstances(found, manifest)
            return
        if found["format"] != FORMAT:
            raise CheckpointError(
                f"{self.path} holds an unfinished run of an earlier version (format "
                f"{found['format']}), which is read but not gone on with; choose another --out, or "
                "delete the folder"
            )
        self._note_resumption(found, manifest, exact)

    def _note_resumption(
        self, found: dict[str, Any], manifest: dict[str, Any], exact: bool
    ) -> None:
        now = versions()
        checkpoints = self._checkpoints()
        if not checkpoints:  # it begins anew, here and now
            if found["versions"] != now:
                self._rewrite({**found, "versions": now, "resumed": None})
            return
        if exact:
            self._require_same_circumstances(found, manifest)
        changed = _changed(found, manifest)
        if not changed:
            return
        resumed = found.get("resumed") or []
        logger.warning(
            "%s goes on with other %s: the last digits may differ from an unbroken run's",
            self.path,
            changed,
        )
        step = int(checkpoints[-1][0].name.split("-")[1])
        note = {"step": step, "versions": now, "model": manifest.get("model")}
        self._rewrite({**found, "resumed": [*resumed, note]})

    def _require_same_circumstances(self, found: dict[str, Any], manifest: dict[str, Any]) -> None:
        if changed := _changed(found, manifest):
            raise CheckpointError(
                f"{self.path} was {'finished' if self.finished else 'begun'} with other {changed}, "
                "and --exact asks for the same; run it as before, or leave --exact out"
            )

    def _rewrite(self, manifest: dict[str, Any]) -> None:
        kept = {key: value for key, value in manifest.items() if value is not None or key in _NULLS}
        write_json(self.path / "manifest.json", kept)

    def _require_no_orphans(self) -> None:
        """What a run has left without its manifest belongs to nobody knows which run."""
        left = [p.name for p, _ in self._checkpoints()]
        left += [name for name in ("result.json", FILES) if (self.path / name).exists()]
        if left:
            raise CheckpointError(
                f"{self.path} holds {left[0]} but no manifest.json that says of which run; choose "
                "another --out, or delete the folder"
            )

    def use_again(self, manifest: dict[str, Any] | None = None, *, exact: bool = False) -> None:
        """Make sure that a finished run is whole before it is used again, and sweep its left-overs.

        Args:
            manifest: of the run that is wanted; None if the folder's name says that.
            exact: refuse it if it was finished under other versions, threads or processors.

        Raises:
            CheckpointError: if it is another run, a file of it is lost or not the one written, or
                ``exact`` and the versions differ.
        """
        if manifest is not None:
            self.open(manifest, exact=exact)
        elif exact:
            self._require_same_circumstances(self.manifest(), {})
        self.verify()
        self._sweep()
        for file, _ in self._checkpoints():
            file.unlink()
        for name in ("steps", "steps.joined"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    @property
    def verified(self) -> bool:
        """Whether a finished run has digests: those of version 0.1.0 have none."""
        return bool(self.manifest()["format"] >= FORMAT)

    def verify(self, names: Collection[str] | None = None) -> None:
        """Compare files of a finished run with the digests that it has left.

        Args:
            names: of the files; all unless given.

        Raises:
            CheckpointError: naming the first that is lost or not the one that was written.
        """
        if not self.verified:
            return
        listed = self._listed()
        for name in listed if names is None else names:
            path = self.path / name
            if name not in listed:
                raise CheckpointError(f"{path} is not listed in {self.path / FILES}; {self._redo}")
            if not path.exists():
                raise CheckpointError(f"{path} of a finished run is lost; {self._redo}")
            with reading(str(path), remedy=self._redo):
                require_file(path)
                digest = sha256_of(path)
            if digest != listed[name]:
                raise CheckpointError(
                    f"{path} is damaged or of another run: its digest does not match; {self._redo}"
                )

    def _listed(self) -> dict[str, str]:
        found = read_json(self.path / FILES, {"run": str, "files": {str: str}})
        if found["run"] != run_key(self.path):
            raise CheckpointError(f"{self.path / FILES} is of another run; {self._redo}")
        files: dict[str, str] = found["files"]
        return files

    @property
    def _redo(self) -> str:
        return f"delete {self.path} to run it again"

    def _sweep(self) -> None:
        for folder in (self.path, *(self.path / name for name in ("steps", "sequence", "weights"))):
            sweep(folder)
        for name in ("sequence.joined", "steps.joined"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        with suppress(OSError):
            (self.path / "checkpoint.new").unlink(missing_ok=True)  # of version 0.1.0

    def require_same(self, **parts: Any) -> None:
        """Refuse the folder if a run is here whose configuration differs in some parts.

        Args:
            **parts: key of the configuration to its value.

        Raises:
            CheckpointError: naming the first difference.
        """
        if not (self.path / "manifest.json").exists():
            return
        found = self.manifest()["config"]
        for key, value in parts.items():
            wanted = as_json(value)
            if found.get(key) != wanted:
                self._refuse(first_difference(found.get(key), wanted, key))

    def _refuse(self, difference: str) -> NoReturn:
        raise CheckpointError(
            f"{self.path} holds a run of another configuration ({difference}); "
            "choose another --out, or delete the folder"
        )

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "result.json").exists()

    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        found: dict[str, Any] = read_json(self.path / "manifest.json", MANIFEST)
        return found

    def result(self) -> dict[str, Any]:
        """The result of a finished run."""
        found: dict[str, Any] = read_json(self.path / "result.json", RESULT)
        if self.verified:
            self.verify(["manifest.json"])
            if found.get("run") != run_key(self.path):
                raise CheckpointError(
                    f"{self.path / 'result.json'} is of another run; {self._redo}"
                )
        return {key: value for key, value in found.items() if key != "run"}

    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluations of a finished run, in order."""
        self.verify(["evaluations.json"])
        rows: list[dict[str, Any]] = read_json(self.path / "evaluations.json", EVALUATIONS)
        return rows

    def ledger(self) -> dict[str, Any]:
        """The cost ledger of a finished run."""
        self.verify(["ledger.json"])
        found: dict[str, Any] = read_json(self.path / "ledger.json", LEDGER)
        return found

    def finish(
        self,
        *,
        evaluations: list[dict[str, Any]],
        ledger: dict[str, Any],
        weights: dict[str, Tensor],
        result: dict[str, Any],
    ) -> None:
        """Write what a finished run leaves, the result last, and drop the checkpoint."""
        raw = weights_bytes(weights)
        with whole_file(self.path / "model.safetensors") as temporary:
            temporary.write_bytes(raw)
        write_json(self.path / "evaluations.json", evaluations)
        write_json(self.path / "ledger.json", ledger)
        digest = hashlib.sha256(raw).hexdigest()
        self._list_files({"model.safetensors": digest})
        key = run_key(self.path)
        write_json(self.path / "result.json", {**result, "weights_digest": digest, "run": key})
        for file, _ in self._checkpoints():
            file.unlink()

    def _list_files(self, known: dict[str, str]) -> None:
        """Write down what the run leaves, with digests; some of which are known already."""
        names = sorted(p.name for p in self.path.iterdir() if p.is_file())
        files = {
            name: known.get(name) or sha256_of(self.path / name)
            for name in names
            if name not in _UNLISTED and not name.startswith(".") and not _CHECKPOINT.match(name)
        }
        write_json(self.path / FILES, {"run": run_key(self.path), "files": files})

    def save_weights(self, name: str, weights: dict[str, Tensor]) -> None:
        """Write a state dict as ``<name>.safetensors``, with its run and digest in it."""
        raw = weights_bytes(weights)
        seal = {"name": name, "digest": tagged(run_key(self.path), name, raw)}
        with whole_file(self.path / f"{name}.safetensors") as temporary:
            temporary.write_bytes(with_seal(raw, seal))

    def load_weights(self, name: str) -> dict[str, Tensor]:
        """Read ``<name>.safetensors``.

        Raises:
            CheckpointError: if it is absent, damaged, or of another run.
        """
        path = self.path / f"{name}.safetensors"
        with reading(
            str(path),
            absent=f"{path} is absent; delete {self.path} to start the run over",
            remedy=self._redo,
        ):
            require_file(path)
            raw = path.read_bytes()
        weights = read_tensors(path, str(path), remedy=self._redo, raw=raw)
        if (self.path / FILES).exists() and path.name in self._listed():
            self.verify([path.name])
            return weights
        seal = seal_of(raw)
        if seal is None and self._is_of_an_earlier_version():
            return weights
        if seal != {
            "name": name,
            "digest": tagged(run_key(self.path), name, weights_bytes(weights)),
        }:
            raise CheckpointError(
                f"{path} is damaged or of another run: its digest does not match; {self._redo}"
            )
        return weights

    def _is_of_an_earlier_version(self) -> bool:
        return (self.path / "manifest.json").exists() and not self.verified

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint whole, then drop the one before it."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        older = [file for file, _ in self._checkpoints()]
        name = f"checkpoint-{step:012d}"
        digest = tagged(run_key(self.path), name, buffer.getbuffer())
        target = self.path / f"{name}-{digest}.pt"
        with whole_file(target) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        for file in older:
            if file != target:
                file.unlink()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None.

        Raises:
            CheckpointError: if its bytes do not match the digest in its name, which is of this run
                and step, or do not load.
        """
        found = self._checkpoints()
        if not found:
            return None
        file, digest = found[-1]
        remedy = f"delete it to start the run over (rm {file})"
        with reading(f"checkpoint {file}", remedy=remedy, damaged="does not load"):
            require_file(file)
            raw = file.read_bytes()
            if tagged(run_key(self.path), file.name[: len("checkpoint-") + 12], raw) != digest:
                raise CheckpointError(
                    f"checkpoint {file} is damaged or of another run: its digest does not match; "
                    f"{remedy}"
                )
            state: dict[str, Any] = torch.load(
                io.BytesIO(raw), map_location="cpu", weights_only=True
            )
        return state

    def _checkpoints(self) -> list[tuple[Path, str]]:
        matches = [
            (p, _CHECKPOINT.fullmatch(p.name)) for p in sorted(self.path.glob("checkpoint-*"))
        ]
        return [(path, match.group(2)) for path, match in matches if match]


_NULLS = ("irreducible", "reference", "proxy", "sequence", "data")
"""Keys of a manifest that may be null."""


def _changed(found: dict[str, Any], manifest: dict[str, Any]) -> str:
    """How circumstances differ from when a run was begun, or gone on with the last time."""
    last = ([found] + (found.get("resumed") or []))[-1]
    before = {**last["versions"], "device": _device(last)}
    return changes(before, {**versions(), "device": _device(manifest)})


def _device(manifest: dict[str, Any]) -> str | None:
    device = (manifest.get("model") or {}).get("device")
    return None if device is None else str(device)
