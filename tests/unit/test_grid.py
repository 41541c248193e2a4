"""A grid's summary and page, from comparisons made by hand; and its processes."""

from __future__ import annotations

import copy
import io
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from rich.console import Console
from test_report import Page
from test_report_cases import comparison

from goldiprox.analysis.comparison import Comparison
from goldiprox.records.files import write_json
from goldiprox.schema import GoldiproxError
from goldiprox.studies.grid.analysis import summarise_grid
from goldiprox.studies.grid.page import grid_sentence, grid_table, write_grid_report
from goldiprox.workflows.parallel import run_parallel

AXES = [("model", ("mlp", "cnn<b>")), ("lr", (0.001, 0.1))]


def entry(found, name):
    return next(e for e in found["methods"] if e["method"] == name)


def made(steps, flops_factor=2.0, table=100.0, proxy=0.0):
    """A comparison in which rho-loss takes so many steps (None: never) and uniform 200."""
    found = copy.deepcopy(comparison(processes=2))
    found["irreducible"] |= {"seconds": table, "flops": table}
    found["methods"] = [entry(found, name) for name in ("uniform", "rho-loss")]
    for name, count in (("uniform", 200.0), ("rho-loss", steps)):
        one = entry(found, name)
        cost = 1.0 if name == "uniform" else flops_factor
        before = 0.0 if name == "uniform" else table + proxy
        one["steps_to_target"]["mean_curve"] = count
        for kind in ("seconds", "flops"):
            both = one[f"{kind}_to_target"]
            both["amortised"]["mean_curve"] = None if count is None else count * cost
            both["charged"]["mean_curve"] = None if count is None else count * cost + before
        one["speedup_over_uniform"] = {
            "steps": None if count is None else 200 / count,
            **{
                f"{kind}_{how}": None if count is None else 200 / (count * cost + paid)
                for kind in ("seconds", "flops")
                for how, paid in (("charged", before), ("amortised", 0.0))
            },
        }
    return found


def cells(*found):
    places = [(m, r) for m in AXES[0][1] for r in AXES[1][1]]
    return [
        {
            "name": f"{n:03d}",
            "title": f"{model}, lr {rate:g}",
            "at": {"model": model, "lr": rate},
            "failed": None if one is not None else "step 3: the loss is NaN",
            "comparison": None if one is None else Comparison.from_json(one),
        }
        for n, ((model, rate), one) in enumerate(zip(places, found, strict=True))
    ]


SETTINGS = {"compare": {"seeds": 3}}


def summarised(*found):
    data = comparison()["data"]
    return summarise_grid(cells(*found), AXES, SETTINGS, data)


def test_counts_and_means_are_those_computed_by_hand():
    found = summarised(made(50.0), made(100.0), made(400.0), made(None))
    (summary,) = found["grid"]["summary"]
    assert (summary["method"], summary["cells"], summary["reached"]) == ("rho-loss", 4, 3)
    steps = summary["speedup"]["steps"]
    assert (steps["faster"], steps["median"]) == (2, 2.0)
    assert (steps["lowest"], steps["highest"]) == (0.5, 4.0)
    assert steps["geometric_mean"] == pytest.approx((4.0 * 2.0 * 0.5) ** (1 / 3))
    # Charged: 50 steps at twice the cost and a table of 100 are as dear as uniform's 200.
    assert summary["speedup"]["flops_charged"]["faster"] == 0
    assert summary["speedup"]["flops_charged"]["highest"] == 1.0
    assert summary["speedup"]["flops_amortised"]["faster"] == 1
    # One table: uniform 3 cells of 200; rho-loss (50 + 100 + 400) x 2, all times the seeds, + 100.
    seeds = entry(made(50.0), "rho-loss")["seeds"]
    expected = seeds * 600 / (seeds * 1100 + 100)
    assert summary["one_table"] == {
        "seconds": pytest.approx(expected), "flops": pytest.approx(expected)
    }  # fmt: skip
    assert found["processes"] == 2


def test_the_table_is_paid_for_once_and_a_proxy_in_every_cell():
    """A method that a proxy chooses for: each cell and seed had a run of the proxy's own."""
    (summary,) = summarised(*(made(n, proxy=7.0) for n in (50.0, 100.0, 400.0, None)))["grid"][
        "summary"
    ]
    seeds = entry(made(50.0), "rho-loss")["seeds"]
    expected = seeds * 600 / (seeds * (1100 + 3 * 7) + 100)
    assert summary["one_table"]["flops"] == pytest.approx(expected)


def test_a_failed_cell_counts_in_nothing():
    found = summarised(made(50.0), None, None, made(100.0))
    (summary,) = found["grid"]["summary"]
    assert (summary["cells"], summary["reached"]) == (2, 2)
    assert [c["failed"] for c in found["grid"]["cells"]] == [
        None, "step 3: the loss is NaN", "step 3: the loss is NaN", None
    ]  # fmt: skip
    nothing = summarised(None, None, None, None)
    assert nothing["grid"]["summary"] == []


def test_a_method_that_never_gets_there_has_no_mean():
    (summary,) = summarised(*[made(None)] * 4)["grid"]["summary"]
    assert summary["reached"] == 0
    assert summary["speedup"]["steps"]["median"] is None
    assert summary["one_table"] == {"seconds": None, "flops": None}
    assert "in 0 of 4 cells" in grid_sentence(summary)


def page_of(found, tmp_path):
    write_json(tmp_path / "comparison.json", found)
    write_json(tmp_path / "manifest.json", {"settings": SETTINGS, "command": "goldiprox <x>"})
    write_grid_report(tmp_path, tmp_path)
    return (tmp_path / "report.html").read_text()


def test_every_cell_stands_in_its_place_on_the_page(tmp_path):
    found = summarised(made(50.0), made(400.0), made(None), None)
    text = page_of(found, tmp_path)
    Page(text)  # every element is closed
    assert "<b>" not in text.replace("&lt;b&gt;", "")
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", text, re.DOTALL)
    first, second = (re.findall(r"<td class=\"box.*?</td>", row, re.DOTALL) for row in rows[:2])
    assert [re.search(r"box (\w+)", box)[1] for box in [*first, *second]] == [
        "faster", "slower", "never", "failed"
    ]  # fmt: skip
    assert "4.0×" in first[0]
    assert "--strength: 100" in first[0]
    assert "0.50×" in first[1]
    assert "--strength: 50" in first[1]
    assert 'href="cells/001/report.html"' in first[1]
    assert "the loss is NaN" in second[1]
    assert "1 of 4 cells did not finish" in re.sub("<.*?>", "", text)
    assert "Up to 2 processes ran at a time" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert text == page_of(found, tmp_path), "the same input gives the same bytes"


def test_curves_go_up_on_the_page_where_accuracy_does(tmp_path):
    text = page_of(summarised(*[made(50.0)] * 4), tmp_path)
    points = re.search(r'<polyline class="method" points="([^"]*)"', text)[1]
    heights = [float(pair.split(",")[1]) for pair in points.split()]
    curve = [p["accuracy"]["mean"] for p in entry(made(50.0), "rho-loss")["curve"]]
    up = [b > a for a, b in pairwise(curve)]
    assert [b < a for a, b in pairwise(heights)] == up
    assert any(up)


@pytest.mark.parametrize("axes", [1, 3])
def test_one_axis_is_a_row_and_three_are_several_tables(axes, tmp_path):
    extra = [("model", ("mlp", "cnn")), ("lr", (0.1, 0.2)), ("batch", (8, 16))][:axes]
    places = [{}]
    for name, values in extra:
        places = [{**place, name: value} for place in places for value in values]
    found = [
        {
            "name": str(n),
            "title": str(p),
            "at": p,
            "failed": None,
            "comparison": Comparison.from_json(made(50.0)),
        }
        for n, p in enumerate(places)
    ]
    data = comparison()["data"]
    text = page_of(summarise_grid(found, extra, SETTINGS, data), tmp_path)
    assert text.count('<table class="grid"') == {1: 1, 3: 2}[axes]
    assert text.count('<td class="box') == len(places)


def test_the_terminal_names_every_cell():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(grid_table(summarised(made(50.0), made(400.0), made(None), None)))
    shown = console.export_text()
    for words in ("mlp, lr 0.001", "4.0×", "0.50×", "failed: step 3", "up to 2 processes"):
        assert words in shown


def job(shared, argument, tell):
    if argument == "die":
        time.sleep(2)  # what was done before is looked at first
        os.kill(os.getpid(), signal.SIGKILL)
    tell(f"at {argument}")
    return shared * argument


def test_jobs_give_their_results_and_a_killed_process_is_one_clear_line():
    told, found = [], []
    with pytest.raises(GoldiproxError, match="killed from outside"):
        found.extend(run_parallel(job, 10, [1, 2, "die"], 1, told.append))
    assert sorted(found) == [(0, 10), (1, 20)]
    assert set(told) <= {"at 1", "at 2"}


SCRIPT = """
import sys, time
from goldiprox.workflows.parallel import run_parallel

def job(shared, argument, tell):
    import os, pathlib
    pathlib.Path(argument).write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    list(run_parallel(job, None, sys.argv[1:], 1, print))
"""


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_workers_end_with_their_parent(how, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    note = tmp_path / "pid"
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", note], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.02)
    worker = int(note.read_text())
    parent.send_signal(how)
    parent.wait(timeout=30)
    while True:  # an orphan belongs to nobody here, so it can only be asked whether it is there
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
