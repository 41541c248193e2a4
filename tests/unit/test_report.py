"""The report page, its figures and the terminal's table, from small comparisons made by hand."""

from __future__ import annotations

import copy
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.lines import Line2D
from rich.console import Console
from test_report_cases import (
    CASES,
    HOSTILE,
    METHODS,
    budget,
    comparison,
    no_uniform,
    nobody,
    spread,
    write,
)

from goldiprox.analysis.comparison import Comparison
from goldiprox.report import formats
from goldiprox.report.canvas import canvas, put_legend
from goldiprox.report.figures import chosen_figure, cost_figure, method_styles, quality_figure
from goldiprox.report.html import write_report
from goldiprox.report.tables import ledger_table, method_table
from goldiprox.report.terminal import terminal_table, verdict_lines
from goldiprox.schema import CheckpointError


class Page(HTMLParser):
    """Text, elements and the numbers of the tables of a page."""

    VOID = frozenset({"meta", "br", "img", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: dict[tuple[str, str, str], tuple[float | None, str]] = {}
        self._open: list[str] = []
        self._table = self._row = self._key = ""
        self._value: float | None = None
        self._data: list[str] | None = None
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = found["id"] or ""
        if tag == "tr":
            self._row = found.get("data-name") or ""
        if tag == "td":
            self._key = found.get("data-key") or ""
        if tag == "data":
            self._key = found.get("data-key") or self._key
            self._value, self._data = float(found["value"] or "nan"), []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "data":
            where = (self._table, self._row, self._key)
            self.cells[where] = (self._value, "".join(self._data or []))
            self._data = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._data is not None:
            self._data.append(data)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each case drawn once: drawing is what takes the time."""
    folder = tmp_path_factory.mktemp("pages")
    return {name: write(folder / name, make()) for name, make in CASES.items()}


def says_all(page: Page, made: dict[str, Any]) -> None:
    for verdict in made["verdicts"]:
        assert verdict["sentence"] in page.text
    for entry in made["methods"]:
        assert entry["method"] in page.text
    assert "None" not in page.text.replace("None of these", "")
    assert "nan" not in re.findall(r"\w+", page.text)


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_its_verdicts_methods_and_gallery(pages: dict[str, str], case: str) -> None:
    page = Page(pages[case])
    says_all(page, CASES[case]())
    assert "Highest irreducible losses" in page.text


def test_comparison_alone_is_enough(tmp_path: Path) -> None:
    page = Page(write(tmp_path / "out", no_uniform(), gallery=False, manifest=False))
    says_all(page, no_uniform())
    assert "Highest irreducible losses" not in page.text
    assert "No command was recorded" in page.text


@pytest.mark.parametrize("case", CASES)
def test_the_page_loads_nothing_and_runs_nothing(pages: dict[str, str], case: str) -> None:
    text = pages[case]
    page = Page(text)
    assert not re.search(r"https?:|//\w|@import", re.sub(r"base64,[\w+/=]+", "", text))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in attrs)
        if "src" in attrs:
            assert (attrs["src"] or "").startswith("data:image/png;base64,")
        for name in ("href", "xlink:href"):
            if name in attrs:
                assert (attrs[name] or "")[1:] in ids
        for reference in re.findall(r"url\(#([^)]*)\)", str(attrs)):
            assert reference in ids
        for reference in (attrs.get("aria-labelledby") or "").split():
            assert reference in ids
        if tag == "img":
            assert attrs["alt"]


def test_names_from_the_data_are_escaped(pages: dict[str, str]) -> None:
    text = pages["no-uniform"]
    assert HOSTILE not in text
    assert f"{HOSTILE} with mlp" in Page(text).text
    assert f"2: {HOSTILE}, boot" in Page(text).text
    assert "'a & b'" in Page(text).text


def test_numbers_of_the_table_are_those_of_the_comparison(pages: dict[str, str]) -> None:
    made = comparison()
    cells = Page(pages["paper"]).cells
    for entry in made["methods"]:

        def cell(key: str, name: str = entry["method"]) -> tuple[float | None, str] | None:
            return cells.get(("table-methods", name, key))

        best = entry["best_accuracy"]
        text = f"{100 * best['mean']:.1f} ± {100 * best['std']:.1f}"
        assert cell("best_accuracy") == (best["mean"], text)
        share = entry["selected_share"]["corrupted"]
        assert cell("corrupted") == (share, "8.1")
        wanted = {
            "epochs": entry["epochs_to_target"],
            "steps": entry["steps_to_target"],
            "seconds_charged": entry["seconds_to_target"]["charged"],
            "seconds_amortised": entry["seconds_to_target"]["amortised"],
            "flops_charged": entry["flops_to_target"]["charged"],
            "flops_amortised": entry["flops_to_target"]["amortised"],
        }
        for key, found in wanted.items():
            shown = cell(key)
            assert (shown and shown[0]) == found["mean_curve"]
            speedup = cell(f"speedup_{key}")
            if key == "epochs" or entry["method"] in ("uniform", "loss"):
                assert speedup is None
            else:
                ratio = entry["speedup_over_uniform"][key]
                assert speedup == (ratio, formats.speedup(ratio))
    assert cells["table-methods", "rho-loss", "speedup_steps"][1] == "4.0×"
    assert cells["table-methods", "rho-loss", "seconds_charged"][1] == "5.0"
    assert cells["table-methods", "rho-loss", "flops_charged"][1] == "550 G"


def test_budget_puts_final_accuracy_first_and_marks_the_batch(pages: dict[str, str]) -> None:
    made = budget()
    columns, rows = method_table(Comparison.from_json(made))
    assert [c.key for c in columns[:2]] == ["final_accuracy", "best_accuracy"]
    assert {row.detail for row in rows} == {"batch 32"}
    page = Page(pages["budget"])
    final = made["methods"][0]["final_accuracy"]["mean"]
    assert page.cells["table-batches", "uniform", "batch-32"][0] == final
    assert page.cells["table-batches", "uniform", "batch-128"] == (0.415, "41.5 ± 0.7")
    assert "reference seconds" in page.text
    assert "equal budgets of 30 seconds" in page.text


def test_without_wrong_labels_nothing_is_said_of_them(pages: dict[str, str]) -> None:
    columns, _ = method_table(Comparison.from_json(nobody()))
    assert "corrupted" not in [column.key for column in columns]
    assert 'id="chosen-corrupted-title"' not in pages["nobody"]
    assert 'id="chosen-already_correct-title"' in pages["nobody"]
    for made, noisy in ((nobody(), False), (comparison(), True), (budget(), True)):
        headings = [
            str(column.header) for column in terminal_table(Comparison.from_json(made)).columns
        ]
        assert any("wrong" in heading for heading in headings) == noisy


def test_figures_have_one_line_per_method_and_dashes_for_the_amortised() -> None:
    made = comparison()
    drawn = ["uniform", "uniform-full", "loss", "something-new", "rho-loss"]  # the accent on top
    for x, dashed in (("epoch", []), ("seconds_charged", ["rho-loss"])):
        svg = quality_figure(Comparison.from_json(made), "a", x, "cost", formats.tick)
        assert re.findall(r'id="a-line-([\w-]+)"', svg) == drawn
        assert re.findall(r'id="a-amortised-([\w-]+)"', svg) == dashed
        for name in METHODS:
            assert f">{name}</text>" in svg
        assert ">81.5\u00a0%</text>" in svg
    svg = chosen_figure(Comparison.from_json(made), "c", "corrupted", "wrongly labelled")
    assert re.findall(r'id="c-line-([\w-]+)"', svg) == drawn
    assert ">9.2 %</text>" in svg
    svg = cost_figure(Comparison.from_json(made), "k")
    assert ">9.0</text>" in svg  # 4.5 + 2.25 + 2.25 s charged to rho-loss; evaluation is not
    assert svg.count(">4.5</text>") == len(METHODS) - 1


def test_one_seed_has_no_band() -> None:
    many = quality_figure(Comparison.from_json(comparison(2)), "a", "epoch", "epochs", formats.tick)
    one = quality_figure(Comparison.from_json(comparison(1)), "a", "epoch", "epochs", formats.tick)
    assert many.count("fill-opacity") == len(METHODS)
    assert one.count("fill-opacity") == 0


def test_colours_do_not_depend_on_the_company_and_tell_methods_apart() -> None:
    styles = method_styles(["loss", "grad-norm", "bald", "rho-loss", "uniform"])
    assert styles["rho-loss"] == method_styles(["rho-loss"])["rho-loss"]
    assert len({style.color for style in styles.values()}) == len(styles)
    assert len({style.marker for style in styles.values()}) == len(styles)


def test_the_same_input_gives_the_same_bytes(pages: dict[str, str], tmp_path: Path) -> None:
    made = comparison()
    before = copy.deepcopy(made)
    assert write(tmp_path / "again", made) == pages["paper"]
    assert made == before


def test_the_ledger_adds_up_what_is_charged() -> None:
    rows = ledger_table(Comparison.from_json(comparison()).methods[3])
    assert [row.name for row in rows][-2:] == ["charged", "evaluation (not charged)"]
    assert rows[-2].cells[-1].value == 9.0
    assert rows[-2].cells[-2].value == 1.5e12


def test_absent_comparison_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"comparison\.json is absent"):
        write_report(tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_the_terminal_table_fits_100_columns(case: str) -> None:
    made = CASES[case]()
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(terminal_table(Comparison.from_json(made)))
    printed = console.export_text()
    for entry in made["methods"]:
        assert entry["method"] in printed
    assert "…" not in printed
    lines = verdict_lines(Comparison.from_json(made))
    assert [line[2:] for line in lines] == [v["sentence"] for v in made["verdicts"]]


def test_every_irreducible_loss_model_is_named(tmp_path):
    made = comparison()
    (one,) = made["irreducible"]["models"]
    made["irreducible"]["models"] = [
        {**one, "name": "half-0", "trained_on": 11111},
        {**one, "name": "half-1", "trained_on": 22222},
    ]
    text = write(tmp_path, made)
    for words in ("mlp-128, 2 of them", "half-0", "11,111 examples", "half-1", "22,222 examples"):
        assert words in text


def test_a_table_from_elsewhere_says_that_its_cost_is_unknown(tmp_path):
    made = comparison()
    made["irreducible"] |= {"made_by": "the column nats of my.csv", "models": None, "model": None}
    text = write(tmp_path, made)
    assert "the column nats of my.csv" in text
    assert "What was paid for it elsewhere is not known and not charged" in text


def test_seconds_measured_in_company_are_marked(tmp_path):
    assert "comparisons ran at a time" not in write(tmp_path / "alone", comparison())
    assert "up to 3 comparisons ran at a time" in write(tmp_path / "three", comparison(processes=3))


def test_operations_that_the_flops_leave_out_are_named(tmp_path):
    made = comparison()
    assert "missing in them" not in write(tmp_path / "whole", made)
    made["methods"][0]["ledger"]["uncounted_operations"] = ["aten.linalg_qr", "mine.scale"]
    page = write(tmp_path / "part", made)
    assert "missing in them" in page
    assert "mine.scale" in page
    caption = str(terminal_table(Comparison.from_json(made)).caption)
    assert caption.endswith("missing in the FLOPs: aten.linalg_qr, mine.scale")


def test_a_legend_of_long_names_stays_inside_the_figure() -> None:
    made = comparison()
    for entry, name in zip(made["methods"], ("a", "b", "c", "d", "e"), strict=False):
        entry["method"] = f"rho-loss@class-balanced@filtered-{name}"
    with canvas() as figure:
        styles = method_styles([entry["method"] for entry in made["methods"]])
        put_legend(
            figure,
            [Line2D([], [], label=name, color=style.color) for name, style in styles.items()],
        )
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width
        short = [Line2D([], [], label=name) for name in "abcd"]
        put_legend(figure, short)
        assert figure.legends[-1]._ncols == 3


@pytest.mark.parametrize(("target", "drawn"), [(0.8, True), (0.99, True), (9.0, False)])
def test_a_target_far_off_the_curves_is_not_drawn(target: float, drawn: bool) -> None:
    made = Comparison.from_json(comparison(target_accuracy=target))
    svg = quality_figure(made, "a", "step", "steps", formats.tick)
    assert (">target<" in svg) == drawn


def test_a_wild_method_leaves_the_frame_of_a_metric_that_nothing_bounds() -> None:
    made = comparison()
    rmse = {"name": "rmse", "title": "RMSE", "higher_is_better": False, "unit": "target"}
    for number, entry in enumerate(made["methods"]):
        for key in ("final_accuracy", "best_accuracy"):
            entry[key.replace("accuracy", "rmse")] = entry.pop(key)
        for point in entry["curve"]:
            value = 60 - 10 * point["accuracy"]["mean"]
            point["value"] = spread(value if number else 1e9 * value)
    made |= {"metric": rmse, "target": 52.0, "weakest_final": 1e9}
    svg = quality_figure(Comparison.from_json(made), "a", "step", "steps", formats.tick)
    ticks = [float(found) for found in re.findall(r">(\d+(?:\.\d+)?)</text>", svg)]
    assert max(ticks) < 300
    assert ">52.00</text>" in svg
