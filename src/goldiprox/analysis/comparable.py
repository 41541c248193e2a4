"""Which runs may stand side by side, and what each line of a comparison is called.

Runs are compared if they have the same data, labels and evaluation. Lines are one for each method
and for each setting in which runs of that method differ, the seed aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goldiprox.schema import ConfigError

__all__ = ["Line", "lines_of"]

Manifest = Mapping[str, Any]

NOT_DATA = ("subset", "data_dir", "dataset", "workers", "lazy")
"""Settings of the data that do not change what is learnt or measured; a subset is a variant."""

BUDGETED = ("batch", "steps", "evaluate_every")
"""What ``compare --protocol budget`` varies within one line: the best batch size is shown."""

DIGITS = 12
"""Of a digest, for people."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Where a run belongs.

    Attributes:
        name: of the line: the method, and what tells the line from others of that method.
        arm: the method.
        different: how the line's data differ from that of other lines; empty where they do not.
    """

    name: str
    arm: str
    different: dict[str, str] = field(default_factory=dict)


def lines_of(
    runs: Sequence[tuple[Path, Manifest]], *, allow_different_data: bool = False
) -> list[Line]:
    """Say for each run to which line of a comparison it belongs.

    Args:
        runs: folder and manifest of each.
        allow_different_data: put runs of different data side by side, the difference in the name of
            each line, instead of refusing them.

    Returns:
        One line a run, equal for runs that differ in their seed only.

    Raises:
        ConfigError: if a run is named twice, or runs differ in data, labels, evaluation or protocol
            and that is not allowed.
    """
    _require_each_once(runs)
    manifests = [manifest for _, manifest in runs]
    if len({manifest.get("protocol", "paper") for manifest in manifests}) > 1:
        raise ConfigError(
            "these runs are of different protocols (equal epochs and equal seconds), whose results "
            "do not compare; report them separately"
        )
    data = [_data_facts(manifest) for manifest in manifests]
    differing = _differing(data)
    if differing and not allow_different_data:
        raise ConfigError(_difference(runs, data, differing))
    settings = [_settings(manifest) for manifest in manifests]
    names = [_arm(manifest) for manifest in manifests]
    parts = _without_digests([{key: _shown(facts[key]) for key in differing} for facts in data])
    lines = []
    for number, arm in enumerate(names):
        mine = [other for other, name in enumerate(names) if name == arm]
        varied = _differing([settings[other] for other in mine])
        varied |= {"model": None} if _several(settings, "model") else {}
        own = {key: settings[number].get(key) for key in varied}
        lines.append(
            Line(name=_named(arm, {**own, **parts[number]}), arm=arm, different=parts[number])
        )
    return _with_seeds_apart(runs, lines)


def _without_digests(parts: list[dict[str, str]]) -> list[dict[str, str]]:
    """What differs, without the labels' digest where a setting says as much."""
    plain = [{key: value for key, value in part.items() if key != "labels"} for part in parts]
    says_as_much = len(set(map(repr, plain))) == len(set(map(repr, parts)))
    return plain if says_as_much else parts


def _require_each_once(runs: Sequence[tuple[Path, Manifest]]) -> None:
    """A run that counted twice would make a spread over seeds look smaller than it is."""
    known: dict[Any, Path] = {}
    for path, manifest in runs:
        for identity in (path.resolve(), manifest.get("config_hash")):
            if identity in known:
                raise ConfigError(
                    f"{known[identity]} and {path} are the same run, which counts once; name one"
                )
        known[path.resolve()] = known[manifest.get("config_hash")] = path


def _data_facts(manifest: Manifest) -> dict[str, Any]:
    """What must be the same in all runs: data, what was done to them, what is evaluated on."""
    described = manifest.get("data", {})
    configured = manifest.get("config", {}).get("data", {})
    facts = {key: value for key, value in configured.items() if key not in NOT_DATA}
    facts["fingerprint"] = described.get("fingerprint")
    digests = described.get("label_digests", {})
    facts["test set"] = digests.get("test")
    if described.get("subset") is None:
        facts["labels"] = digests.get("train")
    return facts


def _settings(manifest: Manifest) -> dict[str, Any]:
    """What runs of one line have in common, apart from the data."""
    left_out = {"seed", "method", *(BUDGETED if manifest.get("protocol") == "budget" else ())}
    train = manifest.get("config", {}).get("train", {})
    found = {key: value for key, value in train.items() if key not in left_out}
    return {**found, "subset": manifest.get("data", {}).get("subset")}


def _differing(facts: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    """Keys under which values differ; a setting that an older version did not record is passed."""
    common = [key for key in facts[0] if all(key in other for other in facts)]
    return dict.fromkeys(key for key in common if _several(facts, key))


def _several(facts: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len({repr(other.get(key)) for other in facts}) > 1


def _difference(
    runs: Sequence[tuple[Path, Manifest]],
    data: Sequence[Mapping[str, Any]],
    differing: Mapping[str, None],
) -> str:
    key = next((k for k in differing if k not in ("labels", "test set")), next(iter(differing)))
    first = data[0][key]
    other = next(number for number, facts in enumerate(data) if facts[key] != first)
    return (
        f"these runs are of different data: {_words(key)} is {_shown(first)} in {runs[0][0]} and "
        f"{_shown(data[other][key])} in {runs[other][0]}, so their results do not compare; leave "
        "one out, or add --allow-different-data to see them side by side without a verdict"
    )


def _with_seeds_apart(runs: Sequence[tuple[Path, Manifest]], lines: Sequence[Line]) -> list[Line]:
    """Runs of one seed in one line differ in what neither settings nor data say: by what they used.

    Raises:
        ConfigError: if they do not.
    """
    keys = [(line.name, _seed(m), _batch(m)) for line, (_, m) in zip(lines, runs, strict=True)]
    counts = Counter(keys)
    crowded = {name for (name, _, _), count in counts.items() if count > 1}
    found = []
    for line, (_, manifest) in zip(lines, runs, strict=True):
        config = manifest.get("config", {})
        used = {key: config[key] for key in ("irreducible", "sequence") if config.get(key)}
        name = _named(line.name, used) if line.name in crowded else line.name
        found.append(Line(name=name, arm=line.arm, different=line.different))
    again = Counter(
        (line.name, _seed(m), _batch(m)) for line, (_, m) in zip(found, runs, strict=True)
    )
    for line, (path, manifest) in zip(found, runs, strict=True):
        if again[line.name, _seed(manifest), _batch(manifest)] > 1:
            raise ConfigError(
                f"{path} is one of several runs of {line.name} with seed {_seed(manifest)}, and "
                "nothing recorded tells them apart; name one"
            )
    return found


def _arm(manifest: Manifest) -> str:
    train = manifest.get("config", {}).get("train", {})
    return str(manifest.get("arm", train.get("method")))


def _seed(manifest: Manifest) -> Any:
    return manifest.get("config", {}).get("train", {}).get("seed")


def _batch(manifest: Manifest) -> Any:
    return manifest.get("config", {}).get("train", {}).get("batch")


def _named(name: str, parts: Mapping[str, Any]) -> str:
    if not parts:
        return name
    listed = ", ".join(
        "all data" if key == "subset" and value is None else f"{_words(key)} {_shown(value)}"
        for key, value in parts.items()
    )
    return f"{name} ({listed})"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    is_digest = len(text) >= 16 and set(text) <= set("0123456789abcdef")
    return text[:DIGITS] if is_digest else text.partition(", sha256")[0]
