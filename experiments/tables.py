"""Write the tables of README and docs from comparison.json files, so that nobody types a figure.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is a folder under
``docs/results``. Run: python experiments/tables.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from goldiprox.report.figures import accuracy_figure, chosen_figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str) -> str:
    """The Markdown table of one comparison, with the command that makes it again."""
    found = json.loads((RESULTS / name / "comparison.json").read_text())
    budget = found["protocol"] == "budget"
    rows = [_budget_row(m) if budget else _paper_row(m) for m in found["methods"]]
    head = BUDGET_HEAD if budget else PAPER_HEAD
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    versions = found["versions"]
    seeds = found["methods"][0]["seeds"]
    command = json.loads((RESULTS / name / "command.json").read_text())
    target = "" if budget else f"target {found['target_accuracy']:.1%} (uniform's best mean); "
    lines += [
        "",
        f"{target}mean ± standard deviation over {seeds} seeds; torch {versions['torch']}, "
        f"{versions['threads']} CPU threads ({versions['cpu_capability']}). Made by:",
        "",
        f"    {command['command']}",
        "",
    ]
    return "\n".join(lines)


PAPER_HEAD = (
    *(
        "method",
        "best accuracy",
        "steps to target",
        "seeds there",
        "steps ÷",
        "seconds ÷ (charged)",
    ),
    *("FLOPs ÷ (charged)", "wrong labels chosen"),
)
BUDGET_HEAD = ("method", "final accuracy", "batch", "steps", "wrong labels chosen")


def _paper_row(entry: dict[str, Any]) -> list[str]:
    steps, speedup = entry["steps_to_target"], entry["speedup_over_uniform"]
    return [
        f"`{entry['method']}`",
        _accuracy(entry["best_accuracy"]),
        "–" if steps["mean_curve"] is None else f"{steps['mean_curve']:,.0f}",
        f"{steps['reached']}/{entry['seeds']}",
        *(_times(speedup[key]) for key in ("steps", "seconds_charged", "flops_charged")),
        f"{entry['selected_share']['corrupted']:.1%}",
    ]


def _budget_row(entry: dict[str, Any]) -> list[str]:
    return [
        f"`{entry['method']}`",
        _accuracy(entry["final_accuracy"]),
        str(entry["batch"]),
        f"{entry['steps']:,}",
        f"{entry['selected_share']['corrupted']:.1%}",
    ]


def _accuracy(spread: dict[str, Any]) -> str:
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.1f}"
    return f"{100 * spread['mean']:.1f}{deviation} %"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}x" if value < 1 else f"{value:.1f}x"


def keep(out: Path, name: str) -> None:
    """Keep what a table needs of a comparison's output folder."""
    target = RESULTS / name
    target.mkdir(parents=True, exist_ok=True)
    found = json.loads((out / "comparison.json").read_text())
    del found["data"]["source"]  # a folder of this machine
    (target / "comparison.json").write_text(json.dumps(found, indent=1) + "\n")
    if found["protocol"] == "paper":
        figure = accuracy_figure(found, "accuracy", "step", "training steps", "{:,.0f}".format)
        (target / "accuracy.svg").write_text(_standalone(figure), encoding="utf-8")
        figure = chosen_figure(found, "chosen", "corrupted", "wrongly labelled")
        (target / "chosen.svg").write_text(_standalone(figure), encoding="utf-8")
    command = json.loads((out / "manifest.json").read_text())["command"]
    (target / "command.json").write_text(json.dumps({"command": command}, indent=1) + "\n")


def _standalone(figure: str) -> str:
    """A file of its own, on white, from an element of a page."""
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" style="background:#fff" font-family="sans-serif"'
    )
    return figure.replace("<svg", head, 1) + "\n"


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or with --check say which are stale."""
    if arguments[:1] == ["--keep"]:
        keep(Path(arguments[1]), arguments[2])
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = MARK.sub(lambda m: f"{m.group(1)}{table(m.group(2))}{m.group(3)}", text)
        if made != text:
            stale.append(page)
            if "--check" not in arguments:
                page.write_text(made, encoding="utf-8")
    for page in stale:
        print(f"{'stale' if '--check' in arguments else 'wrote'} {page.relative_to(ROOT)}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
