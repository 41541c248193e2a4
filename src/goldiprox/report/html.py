"""One self-contained page from what a comparison wrote."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

from goldiprox.analysis.comparison import Comparison, Verdict
from goldiprox.records.examples import read_examples
from goldiprox.records.files import read_json, whole_file
from goldiprox.report import formats
from goldiprox.report.canvas import slug
from goldiprox.report.figures import chosen_figure, cost_figure, quality_figure
from goldiprox.report.groups import group_table
from goldiprox.report.pictures import picture
from goldiprox.report.tables import (
    Column,
    batch_table,
    counted,
    has_noise,
    known_marks,
    knows_correct,
    ledger_table,
    left_out_operations,
    method_table,
    other_table,
    proxy_table,
    seed_table,
    wrong_words,
)
from goldiprox.schema import CheckpointError

__all__ = ["flat_settings", "page_environment", "write_report"]

GROUPS = {"most-chosen": "most often chosen", "least-chosen": "least often chosen"}
BADGES = {
    True: ("paid", "✓", "paid"),
    False: ("unpaid", "✗", "did not pay"),
    None: ("undecided", "?", "undecided"),
}


def write_report(out: Path, study: Path | None = None) -> Path:
    """Write ``report.html`` of a comparison.

    Args:
        out: holds ``comparison.json`` and gets the page.
        study: of a whole comparison, the folder with ``manifest.json`` and ``examples.parquet``;
            ``out`` unless given. The page does without what is absent.

    Returns:
        The page's path.

    Raises:
        CheckpointError: if ``comparison.json`` is absent, or a record is damaged.
        GoldiproxError: if the page cannot be written.
    """
    study = study or out
    comparison = Comparison.read(out / "comparison.json")
    manifest: dict[str, Any] = {}
    if (study / "manifest.json").exists():
        manifest = read_json(study / "manifest.json")
        settings = comparison.settings
        if settings and settings != manifest.get("settings"):
            raise CheckpointError(
                f"{out / 'comparison.json'} is of another comparison than "
                f"{study / 'manifest.json'}; make it again with: goldiprox report"
            )
    gallery: list[dict[str, Any]] = []
    if (study / "examples.parquet").exists():
        gallery = read_examples(study / "examples.parquet")
    page = out / "report.html"
    text = _render(comparison, manifest, gallery)
    with whole_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def page_environment(*folders: Path) -> Environment:
    """Templates of this package and of further folders, with the filters that write numbers."""
    ours = PackageLoader("goldiprox", "report")
    environment = Environment(
        loader=ChoiceLoader([ours, *map(FileSystemLoader, folders)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=formats.count,
        flops=formats.flops,
        memory=formats.memory,
        metric=formats.metric_value,
        capitalised=formats.capitalised,
        test_name=lambda title: formats.capitalised(f"test {title}"),
        model_name=formats.model_name,
        percent=formats.share,
        seconds=formats.seconds,
        setting=formats.setting,
        tick=formats.tick,
        spans=_headings,
    )
    return environment


def _render(comparison: Comparison, manifest: dict[str, Any], gallery: list[dict[str, Any]]) -> str:
    environment = page_environment()
    columns, rows = method_table(comparison)
    seed_columns, seed_rows = seed_table(comparison)
    settings = manifest.get("settings") or comparison.settings
    return environment.get_template("report.html").render(
        comparison=comparison,
        models=[formats.model_name(name) for name in comparison.models],
        metric=comparison.metric,
        budget=comparison.protocol == "budget",
        budget_seconds=(settings.get("compare") or {}).get("seconds"),
        given_target=(settings.get("compare") or {}).get("target") is not None,
        judged=any(column.key == "redundant" for column in columns),
        noisy=has_noise(comparison),
        knows_correct=knows_correct(comparison),
        seeds=max(entry.seeds for entry in comparison.methods),
        answer=_answer(comparison.verdicts),
        verdicts=[
            {"sentence": verdict.sentence, "badge": BADGES[verdict.paid]}
            for verdict in comparison.verdicts
        ],
        columns=columns,
        groups=_headings(columns),
        pools=sorted({(entry.batch, entry.pool) for entry in comparison.methods}),
        rows=rows,
        others=other_table(comparison),
        seed_columns=seed_columns,
        seed_rows=seed_rows,
        batches=batch_table(comparison),
        audited=group_table(comparison),
        proxy=comparison.proxy,
        correlations=proxy_table(comparison),
        left_out=left_out_operations(comparison),
        ledgers=[(entry, ledger_table(entry)) for entry in comparison.methods],
        figures=_figures(comparison),
        cost=cost_figure(comparison, "cost"),
        galleries=_galleries(gallery),
        settings=flat_settings(settings),
        command=manifest.get("command"),
    )


def _headings(columns: list[Column]) -> list[tuple[str, int]]:
    """Headings over several columns, each with how many it spans."""
    return [(group, len(list(members))) for group, members in groupby(columns, lambda c: c.group)]


def _answer(verdicts: Sequence[Verdict]) -> str:
    """The shortest answer that is true."""
    paid = [verdict.method for verdict in verdicts if verdict.paid]
    undecided = [verdict.method for verdict in verdicts if verdict.paid is None]
    if paid:
        return f"Yes: {_listed(paid)}."
    if undecided:
        return f"Undecided: {_listed(undecided)}."
    return "No." if verdicts else "Nothing to judge: only uniform was run."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _figures(comparison: Comparison) -> dict[str, list[tuple[str, str]]]:
    """Figures with their headings, by section."""
    kind = "reference seconds" if comparison.protocol == "budget" else "wall seconds"
    costs = [
        ("epoch", "Epochs", "epochs (passes over the pools)", formats.tick),
        ("step", "Steps", "training steps", formats.tick),
        ("seconds_charged", "Seconds", f"{kind}, everything charged", formats.tick),
    ]
    if counted(comparison):
        costs.append(("flops_charged", "FLOPs", "FLOPs, everything charged", formats.flops_tick))
    chosen = [(mark, name.capitalize(), name) for mark, name in known_marks(comparison).items()]
    if knows_correct(comparison):
        chosen.insert(0, ("already_correct", "Already correct", "already correct"))
    if has_noise(comparison):
        words = wrong_words(comparison)
        chosen.insert(0, ("corrupted", words.title, words.chosen))
    name = slug(comparison.metric.name)
    others = comparison.other_metrics()
    # One other metric is drawn as the first is; of several, each against the steps alone.
    drawn = costs if len(others) == 1 else costs[1:2]
    return {
        "metric": [
            (heading, quality_figure(comparison, f"{name}-{cost}", cost, label, tick))
            for cost, heading, label, tick in costs
        ],
        "others": [
            (
                heading if len(others) == 1 else formats.capitalised(other.title),
                quality_figure(comparison, f"{slug(other.name)}-{cost}", cost, label, tick, other),
            )
            for other in others
            if all(other.name in p.others for e in comparison.methods for p in e.curve)
            for cost, heading, label, tick in drawn
        ],
        "chosen": [
            (heading, chosen_figure(comparison, f"chosen-{field}", field, label))
            for field, heading, label in chosen
        ],
    }


def _galleries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Examples by method and group, pictures as data URIs; the highest irreducible losses last."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        image = picture(row["png"]) if row["png"] else None
        found.setdefault((row["method"], row["group"]), []).append({**row, "image": image})
    shown = []
    for (method, group), examples in found.items():
        heading = f"{method}: {GROUPS[group]}" if group in GROUPS else "Highest irreducible losses"
        wrong = sum(bool(example["corrupted"]) for example in examples)
        texts = any(example.get("text") for example in examples)
        shown.append({"heading": heading, "examples": examples, "wrong": wrong, "texts": texts})
    return sorted(shown, key=lambda g: g["heading"].startswith("Highest"))


def flat_settings(value: Any, where: str = "") -> list[tuple[str, str]]:
    """Settings as (path, value) in their own order."""
    if isinstance(value, dict):
        return [
            pair
            for key, item in value.items()
            for pair in flat_settings(item, f"{where}.{key}" if where else str(key))
        ]
    if isinstance(value, list):
        return [(where, ", ".join(map(str, value)))]
    return [(where, formats.DASH if value is None else str(value))]
