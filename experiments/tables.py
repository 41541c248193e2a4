"""Write the tables of README and docs from comparison.json files, so that nobody types a figure.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is a folder under
``docs/results``. In a method's card ``<!-- measured: NAME -->`` stands for one line on that method.
Run: python experiments/tables.py [--check]
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
LINE = re.compile(r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


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


def measured(name: str, method: str) -> str:
    """One line on a method, for its card."""
    found = json.loads((RESULTS / name / "comparison.json").read_text())
    by_name = {entry["method"]: entry for entry in found["methods"]}
    entry, uniform = by_name[method], by_name["uniform"]
    data, learner = found["settings"]["data"], found["settings"]["compare"]
    steps, share = entry["steps_to_target"], entry["selected_share"]["corrupted"]
    reached = "not reached"
    if steps["mean_curve"] is not None:
        before = uniform["steps_to_target"]["mean_curve"]
        reached = f"reached in {steps['mean_curve']:,.0f} steps (uniform {before:,.0f})"
    if method == "uniform":
        reached = f"its own best, at {steps['mean_curve']:,.0f} steps"
    return (
        f"{data['dataset']}, {data['label_noise']:.0%} label noise, {learner['model']}, "
        f"{learner['epochs']} epochs, {entry['seeds']} seeds: best accuracy "
        f"{_accuracy(entry['best_accuracy'])} (uniform {_accuracy(uniform['best_accuracy'])}); "
        f"target {found['target_accuracy']:.1%} {reached}; {share:.1%} of what it chose was "
        "wrongly labelled.\n"
    )


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
        card = page.stem
        made = LINE.sub(
            lambda m, card=card: f"{m.group(1)}{measured(m.group(2), card)}{m.group(3)}", made
        )
        if made != text:
            stale.append(page)
            if "--check" not in arguments:
                page.write_text(made, encoding="utf-8")
    for page in stale:
        print(f"{'stale' if '--check' in arguments else 'wrote'} {page.relative_to(ROOT)}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
