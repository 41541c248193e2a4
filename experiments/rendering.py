"""Markdown tables of kept results: one function for each kind of result file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def render(file: str, found: Json, command: str) -> str:
    """The table of a result file, with the command that makes it again."""
    kind = "grid" if "grid" in found else file
    lines = RENDERERS[kind](found)
    return "\n".join([*lines, "", f"    {command}", ""])


def _comparison(found: Json) -> list[str]:
    budget = found["protocol"] == "budget"
    marked = {
        "corrupted": found["share_corrupted_in_data"],
        **found.get("share_marked_in_data", {}),
    }
    shown = [mark for mark in MARKS if marked.get(mark)]
    matthews = "best_matthews" if all(e.get("best_matthews") for e in found["methods"]) else None
    rows = [
        [
            *(_budget_row(entry) if budget else _paper_row(entry)),
            *([accuracy(entry[matthews])] if matthews else []),
            *(f"{entry['selected_share'][mark]:.1%}" for mark in shown),
        ]
        for entry in found["methods"]
    ]
    head = (
        *(BUDGET_HEAD if budget else PAPER_HEAD),
        *(["best Matthews correlation"] if matthews else []),
        *(f"{MARKS[mark]} chosen" for mark in shown),
    )
    target = "" if budget else f"target {found['target_accuracy']:.1%} (uniform's best mean); "
    target += "".join(f"{marked[mark]:.1%} of the data are {MARKS[mark]}; " for mark in shown)
    lines = [*_table(head, rows), ""]
    if found.get("proxy"):
        lines += _rank_correlations(found["proxy"])
    return [*lines, f"{target}{_circumstances(found, found['methods'][0]['seeds'])}. Made by:"]


def _rank_correlations(proxy: Json) -> list[str]:
    """Over training, of the proxy's reducible losses with the target's."""
    points: dict[str, list[Json]] = proxy["rank_correlations"]
    arms = [name for name in ("replayed", "direct") if points.get(name)]
    last = len(points[arms[0]]) - 1
    shown = sorted({round(last * i / (CORRELATIONS - 1)) for i in range(CORRELATIONS)})
    epochs = [points[arms[0]][at]["epoch"] for at in shown]
    rows = [
        [
            {"replayed": "the target that replays", "direct": "the target that chooses itself"}[
                arm
            ],
            *(f"{points[arm][at]['mean']:.2f}" for at in shown),
        ]
        for arm in arms
    ]
    head = (f"rank correlation of `{proxy['model']}` with", *(f"epoch {e:g}" for e in epochs))
    return [*_table(head, rows), ""]


def _grid(found: Json) -> list[str]:
    grid = found["grid"]
    names = [axis["name"] for axis in grid["axes"]]
    rows = []
    for cell in grid["cells"]:
        if cell["failed"]:
            rows.append([*map(str, cell["at"].values()), f"failed: {cell['failed']}"])
            continue
        by_name = {entry["method"]: entry for entry in cell["methods"]}
        uniform = by_name.pop("uniform")
        for name, entry in by_name.items():
            rows.append(
                [
                    *(f"{cell['at'][axis]}" for axis in names),
                    f"`{name}`",
                    accuracy(uniform["best_accuracy"]),
                    accuracy(entry["best_accuracy"]),
                    *_speedups(entry["speedup_over_uniform"]),
                ]
            )
    head = (*names, "method", "uniform's best", "its best", *SPEEDUP_HEAD)
    return [
        *_table(head, rows),
        "",
        *(_grid_summary(entry) for entry in grid["summary"] if entry["method"] != "uniform"),
        "",
        f"{_circumstances(found, grid['seeds'])}; {found['processes']} at a time. Made by:",
    ]


def _grid_summary(entry: Json) -> str:
    steps, charged = (entry["speedup"][key] for key in ("steps", "seconds_charged"))
    flops, once = entry["speedup"]["flops_charged"], entry["one_table"]
    return (
        f"- `{entry['method']}`: best accuracy above uniform's in {entry['better']} of "
        f"{entry['cells']} cells; target reached in {entry['reached']}; faster in steps in "
        f"{steps['faster']} (median {_times(steps['median'])}, geometric mean "
        f"{_times(steps['geometric_mean'])}, {_times(steps['lowest'])} to "
        f"{_times(steps['highest'])}), in charged seconds in {charged['faster']} (median "
        f"{_times(charged['median'])}), in charged FLOPs in {flops['faster']} (median "
        f"{_times(flops['median'])}); all cells with the table paid for once: seconds "
        f"{_times(once['seconds'])}, FLOPs {_times(once['flops'])}."
    )


def _table1(found: Json) -> list[str]:
    rows = [
        [
            name,
            TABLE1[name],
            f"{entry['mean']:.2f} ({', '.join(f'{value:.2f}' for value in entry['values'])})",
            f"{entry['paper']:.2f}",
        ]
        for name, entry in found["spearman"].items()
    ]
    return [*_table(("", "approximation", "here: mean (seeds)", "the paper"), rows), "", "Made by:"]


def _table4(found: Json) -> list[str]:
    rows = [
        [
            kind,
            accuracy(found[kind]["final_accuracy"]),
            accuracy(found[kind]["best_accuracy"]),
            f"{found[kind]['corrupted']:.1%}",
            *(
                f"{point['accuracy']:.1%} ({point['corrupted']:.0%})"
                for point in found[kind]["over_time"]
                if point["epoch"] in TABLE4_EPOCHS
            ),
        ]
        for kind in ("frozen", "updated")
    ]
    head = (
        *("irreducible-loss model", "final accuracy", "best", "wrong labels chosen"),
        *(f"epoch {epoch}" for epoch in TABLE4_EPOCHS),
    )
    return [
        *_table(head, rows),
        "",
        f"by epoch: accuracy, and in brackets the share of wrong labels chosen in that epoch; "
        f"{found['share_corrupted_in_data']:.0%} of the labels are wrong. Made by:",
    ]


def _agreement(found: Json) -> list[str]:
    """How much the scores of replicas and epochs agree, and how much with the input's norm."""
    columns, scores = found["columns"], found["scores"]
    control = "input_norm" if "input_norm" in columns else None
    head = ["rank correlation of", "two replicas", "means of two halves"]
    rows = [
        [f"`{entry['column']}`", f"{entry['pairs']:.2f}", f"{entry['halves']:.2f}"]
        for entry in found["replicas"]
    ]
    if control is not None:
        head.append(f"with `{control}`")
        for row, entry in zip(rows, found["replicas"], strict=True):
            row.append(f"{scores[columns.index(entry['column'])][columns.index(control)]:.2f}")
    lines = _table(head, rows)
    *early, last = found["epochs"]["columns"] or [None]
    if early:
        among = found["epochs"]["scores"][-1]
        told = (f"`{name}` {value:.2f}" for name, value in zip(early, among, strict=False))
        lines += ["", f"Rank correlation of `{last}` with what it was earlier: {', '.join(told)}."]
    return lines


def _diet(found: Json) -> list[str]:
    curves = found["curves"]
    shares = sorted({c["share"] for c in curves if c["offset"] is None}, reverse=True)
    rows = []
    for arm in dict.fromkeys(curve["arm"] for curve in curves):
        of_arm = [c for c in curves if c["arm"] == arm and c["offset"] is None]
        by_share = {curve["share"]: curve for curve in of_arm}
        cells = (
            accuracy(by_share[share]["accuracy"]) if share in by_share else "" for share in shares
        )
        rows.append([f"`{arm}`", *cells])
    lines = _table(("highest kept, by", *(f"{share:.0%} kept" for share in shares)), rows)
    windows = [c for c in curves if c["offset"] is not None]
    if windows:
        head = (f"{found['window_share']:.0%} kept, from", "accuracy")
        cells = [[f"{w['offset']:.0%}", accuracy(w["accuracy"])] for w in windows]
        lines += ["", f"Windows of the ascending order of `{found['window_by']}`:", ""]
        lines += _table(head, cells)
    if found["noise"]:
        noise = found["noise"]
        rows = [
            [
                f"`{entry['score']}`",
                f"{entry['auc']:.3f}",
                f"{entry['average_precision']:.3f}",
                f"{entry['precision_at_count']:.1%}",
            ]
            for entry in sorted(noise["detection"], key=lambda entry: -entry["auc"])
        ]
        head = ("finding wrong labels by", "area under the curve", "average precision")
        lines += ["", *_table((*head, f"wrong among the {noise['count']:,} highest"), rows)]
    lines += ["", *_agreement(found["agreement"]), "", *_readings(found), ""]
    seeds = len(next(c for c in curves if c["arm"] != "full")["accuracy"]["values"])
    return [*lines, f"{_circumstances(found, seeds)}. Made by:"]


def _dynamics(found: Json) -> list[str]:
    return [*_readings(found), "", f"{_circumstances(found, found['seeds'])}. Made by:"]


def _readings(found: Json) -> list[str]:
    said = {True: "yes", False: "no", None: "cannot be said"}
    rows = [
        [reading["claim"], said[reading.get("holds", reading.get("seen"))], reading["sentence"]]
        for reading in found["readings"]
    ]
    return _table(("the claim", "seen here", "measured"), rows)


RENDERERS = {
    "comparison.json": _comparison,
    "grid": _grid,
    "table1.json": _table1,
    "table4.json": _table4,
    "diet.json": _diet,
    "dynamics.json": _dynamics,
}
"""By the name of the result file; a grid's is called like a comparison's."""

SPEEDUP_HEAD = ("steps ÷", "seconds ÷ (amortised)", "FLOPs ÷ (amortised)")
PAPER_HEAD = (
    *("method", "best accuracy", "steps to target", "seeds there"),
    *SPEEDUP_HEAD,
)
BUDGET_HEAD = ("method", "final accuracy", "batch", "steps")
MARKS = {
    "corrupted": "wrong labels",
    "low_relevance": "of low relevance",
    "ambiguous": "ambiguous",
}
"""What an example may be known to be, as it is called in a table's head."""
CORRELATIONS = 6
"""At most so many epochs of the rank correlations."""
TABLE4_EPOCHS = (1, 2, 5, 10, 20)
TABLE1 = {
    "1a": "single models instead of ensembles",
    "1b": "and one gradient step on each batch instead of training to convergence",
    "2": "and the irreducible-loss model not updated",
    "3": "and a small irreducible-loss model",
}


def _paper_row(entry: Json) -> list[str]:
    steps, speedup = entry["steps_to_target"], entry["speedup_over_uniform"]
    return [
        f"`{entry['method']}`",
        accuracy(entry["best_accuracy"]),
        "–" if steps["mean_curve"] is None else f"{steps['mean_curve']:,.0f}",
        f"{steps['reached']}/{entry['seeds']}",
        *_speedups(speedup),
    ]


def _budget_row(entry: Json) -> list[str]:
    return [
        f"`{entry['method']}`",
        accuracy(entry["final_accuracy"]),
        str(entry["batch"]),
        f"{entry['steps']:,}",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _circumstances(found: Json, seeds: int) -> str:
    versions = found["versions"]
    threads = versions["threads"]
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"{spread}; torch {versions['torch']}, {threads} CPU thread{'s' * (str(threads) != '1')} "
        f"({versions['cpu_capability']})"
    )


def accuracy(spread: Json) -> str:
    """Mean and deviation in per cent."""
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.1f}"
    return f"{100 * spread['mean']:.1f}{deviation} %"


def _speedups(speedup: Json) -> list[str]:
    """In steps; in seconds and FLOPs charged, with the amortised one behind it if it differs."""
    cells = [_times(speedup["steps"])]
    for cost in ("seconds", "flops"):
        charged, amortised = (
            _times(speedup[f"{cost}_{kind}"]) for kind in ("charged", "amortised")
        )
        cells.append(charged if charged == amortised else f"{charged} ({amortised})")
    return cells


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}x" if value < 0.995 else f"{value:.1f}x"
