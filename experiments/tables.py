"""Write the tables of README and docs from result files, so that nobody types a figure.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is a folder under
``docs/results``. In a method's card ``<!-- measured: NAME -->`` stands for one line on that method.
Run: python experiments/tables.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from goldiprox.analysis.comparison import Comparison
from goldiprox.report.figures import chosen_figure, quality_figure
from rendering import RENDERERS, accuracy, render

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
FILES = [file for file in ("table1.json", "table4.json", *RENDERERS) if file != "grid"]
COMMANDS = {
    "table1.json": "python experiments/table1.py --out runs/table1",
    "table4.json": "python experiments/table4.py --out runs/table4",
}
LINE = re.compile(r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str) -> str:
    """The Markdown table of one kept result, with the command that makes it again."""
    command = json.loads((RESULTS / name / "command.json").read_text())["command"]
    file = next(file for file in FILES if (RESULTS / name / file).exists())
    return render(file, json.loads((RESULTS / name / file).read_text()), command)


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
        f"{accuracy(entry['best_accuracy'])} (uniform {accuracy(uniform['best_accuracy'])}); "
        f"target {found['target_accuracy']:.1%} {reached}; {share:.1%} of what it chose was "
        "wrongly labelled.\n"
    )


def keep(out: Path, name: str) -> None:
    """Keep what a table needs of a comparison's output folder."""
    target = RESULTS / name
    target.mkdir(parents=True, exist_ok=True)
    file = next(file for file in FILES if (out / file).exists())
    found = json.loads((out / file).read_text())
    found.get("data", {}).pop("source", None)  # a folder of this machine
    for cell in found.get("grid", {}).get("cells", []):
        for entry in cell.get("methods") or []:
            del entry["curve"]  # long, and not shown
    (target / file).write_text(json.dumps(found, indent=1) + "\n")
    if "methods" in found and found["protocol"] == "paper":
        comparison = Comparison.from_json(found)
        for metric in (None, *comparison.other_metrics()):
            name = (metric or comparison.metric).name
            figure = quality_figure(
                comparison, name, "step", "training steps", "{:,.0f}".format, metric
            )
            (target / f"{name}.svg").write_text(_standalone(figure), encoding="utf-8")
        figure = chosen_figure(comparison, "chosen", "corrupted", "wrongly labelled")
        (target / "chosen.svg").write_text(_standalone(figure), encoding="utf-8")
    manifest = out / "manifest.json"  # an experiment's own files have none
    kept = json.loads(manifest.read_text())["command"] if manifest.exists() else COMMANDS[file]
    (target / "command.json").write_text(json.dumps({"command": kept}, indent=1) + "\n")


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
