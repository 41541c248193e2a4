"""Run folders: manifest, checkpoint, weights, evaluations, ledger, result.

====================  =========================================================================
``manifest.json``     configuration, versions, fingerprints, seeds; written first
``steps.parquet``     the step log (parts under ``steps/`` until the run is finished)
``evaluations.json``  accuracy and loss along the run, with the costs paid until then
``ledger.json``       costs by phase
``model.safetensors`` final weights
``result.json``       written last; a run without it is unfinished
``checkpoint-*.pt``   where an unfinished run goes on; the name carries the file's digest
====================  =========================================================================
"""

from __future__ import annotations

import io
import pickle
import platform
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from goldiprox.records.files import read_json, sha256_of, whole_file, write_json
from goldiprox.schema import CheckpointError
from goldiprox.version import __version__

__all__ = ["RunFolder", "versions", "weights_bytes"]

FORMAT = 1
_CHECKPOINT = re.compile(r"checkpoint-(\d{12})-([0-9a-f]{16})\.pt")


def versions() -> dict[str, str]:
    """What a figure may depend on: library versions, platform, processor threads."""
    return {
        "goldiprox": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def weights_bytes(weights: dict[str, Tensor]) -> bytes:
    """A state dict in the safetensors format; its SHA-256 is what records call weights digest."""
    # Cloned: safetensors refuses tensors that share memory (tied weights).
    return save_safetensors(
        {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
    )


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    def open(self, manifest: dict[str, Any]) -> None:
        """Start a run here, or go on with the one that is here.

        Args:
            manifest: what the run is; its ``config_hash`` identifies it.

        Raises:
            CheckpointError: if the folder holds a run of another configuration.
        """
        file = self.path / "manifest.json"
        if file.exists():
            found = read_json(file)
            if found.get("config_hash") != manifest["config_hash"]:
                self._refuse(first_difference(found.get("config", {}), manifest["config"]))
            return
        write_json(file, {"format": FORMAT, **manifest, "versions": versions()})

    def require_same(self, **parts: Any) -> None:
        """Refuse the folder if a run is here whose configuration differs in some parts.

        Args:
            **parts: key of the configuration to its value.

        Raises:
            CheckpointError: naming the first difference.
        """
        if not (self.path / "manifest.json").exists():
            return
        found = self.manifest().get("config", {})
        for key, value in parts.items():
            if found.get(key) != value:
                self._refuse(first_difference(found.get(key), value, key))

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
        return self._read("manifest.json")

    def result(self) -> dict[str, Any]:
        """The result of a finished run."""
        return self._read("result.json")

    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluations of a finished run, in order."""
        rows: list[dict[str, Any]] = read_json(self.path / "evaluations.json")
        return rows

    def ledger(self) -> dict[str, Any]:
        """The cost ledger of a finished run."""
        return self._read("ledger.json")

    def _read(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = read_json(self.path / name)
        return value

    def finish(
        self,
        *,
        evaluations: list[dict[str, Any]],
        ledger: dict[str, Any],
        weights: dict[str, Tensor],
        result: dict[str, Any],
    ) -> None:
        """Write what a finished run leaves, the result last, and drop the checkpoint."""
        self.save_weights("model", weights)
        write_json(self.path / "evaluations.json", evaluations)
        write_json(self.path / "ledger.json", ledger)
        digest = sha256_of(self.path / "model.safetensors")
        write_json(self.path / "result.json", {**result, "weights_digest": digest})
        for file, _ in self._checkpoints():
            file.unlink()

    def save_weights(self, name: str, weights: dict[str, Tensor]) -> None:
        """Write a state dict as ``<name>.safetensors``."""
        with whole_file(self.path / f"{name}.safetensors") as temporary:
            temporary.write_bytes(weights_bytes(weights))

    def load_weights(self, name: str) -> dict[str, Tensor]:
        """Read ``<name>.safetensors``.

        Raises:
            CheckpointError: if it is absent or damaged.
        """
        path = self.path / f"{name}.safetensors"
        try:
            return load_safetensors(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} is absent or damaged ({error}); delete {self.path} to start the run over"
            ) from error

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint whole, then drop the one before it."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        older = [file for file, _ in self._checkpoints()]
        staged = self.path / "checkpoint.new"
        with whole_file(staged) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        target = self.path / f"checkpoint-{step:012d}-{sha256_of(staged)[:16]}.pt"
        staged.replace(target)
        for file in older:
            if file != target:
                file.unlink()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None.

        Raises:
            CheckpointError: if its bytes do not match the digest in its name, or do not load.
        """
        found = self._checkpoints()
        if not found:
            return None
        file, digest = found[-1]
        remedy = f"delete it to start the run over (rm {file})"
        if sha256_of(file)[:16] != digest:
            raise CheckpointError(
                f"checkpoint {file} is damaged: its digest does not match; {remedy}"
            )
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (
            RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError
        ) as error:  # fmt: skip
            first = str(error).splitlines()[0]
            raise CheckpointError(f"checkpoint {file} does not load: {first}; {remedy}") from error
        return state

    def _checkpoints(self) -> list[tuple[Path, str]]:
        matches = [
            (p, _CHECKPOINT.fullmatch(p.name)) for p in sorted(self.path.glob("checkpoint-*"))
        ]
        return [(path, match.group(2)) for path, match in matches if match]


def first_difference(found: Any, wanted: Any, where: str = "") -> str:
    """Where two configurations first differ, for a message: ``train.lr is 0.01, not 0.001``."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                inner = f"{where}.{key}" if where else key
                return first_difference(found.get(key), wanted.get(key), inner)
    return f"{where or 'its configuration'} is {found} there, {wanted} now"
