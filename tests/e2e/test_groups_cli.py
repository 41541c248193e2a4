"""A group column from the file to the page: who was chosen of each group, and how it fared."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from goldiprox.cli import main
from goldiprox.records.steplog import read_steps

GROUPS = ("by day", "by night", "indoors")
SIZE = {"train": 240, "test": 60}


def write_images(path, count, seed):
    """Eight-pixel squares, bright on the left or on the right; at night it is all but unseen."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = int(random.integers(2))
        group = GROUPS[0] if number % 4 else GROUPS[1]
        pixels = random.integers(0, 60, (8, 8))
        pixels[:, 4 * label : 4 * label + 4] += 120 if group == GROUPS[0] else 3
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        rows.append({"img": {"bytes": file.getvalue()}, "label": label, "light": group})
    rows[-1]["light"] = GROUPS[2] if path.stem == "test" else rows[-1]["light"]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return [row["light"] for row in rows]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    home = tmp_path_factory.mktemp("groups")
    data = home / "data"
    data.mkdir()
    groups = []
    for number, (part, count) in enumerate(SIZE.items()):
        groups += write_images(data / f"{part}.parquet", count, number)
    out = home / "out"
    command = [
        *("compare", str(data), "--methods", "uniform,loss", "--seeds", "2", "--epochs", "3"),
        *("--model", "mlp-128", "--pool", "40", "--batch", "4", "--out", str(out)),
    ]
    main([*command, "--group-column", "light"])
    return out, np.array(groups), command


def test_shares_are_those_of_the_step_logs(compared):
    out, groups, _ = compared
    comparison = json.loads((out / "comparison.json").read_text())
    train = json.loads((out / "runs" / "uniform-0" / "manifest.json").read_text())["data"]["sizes"]
    for entry in comparison["methods"]:
        found = {group["name"]: group for group in entry["groups"]}
        assert list(found) == [GROUPS[1], GROUPS[0], GROUPS[2]]  # as they come in the files
        shares = {name: [] for name in GROUPS}
        for seed in range(2):
            steps = read_steps(out / "runs" / f"{entry['method']}-{seed}")
            chosen = groups[steps["ids"].combine_chunks().flatten().to_numpy()]
            for name in GROUPS:
                shares[name].append(np.mean(chosen == name))
        for name, group in found.items():
            assert group["share_chosen"]["values"] == pytest.approx(shares[name])
        assert sum(group["share_in_pool"] for group in entry["groups"]) == pytest.approx(1)
        nights = found[GROUPS[1]]["share_in_pool"] * train["train"]
        assert nights == pytest.approx(round(nights), abs=1e-6)
        assert 0.1 < found[GROUPS[1]]["share_in_pool"] < 0.4
        assert found[GROUPS[2]]["share_in_pool"] == 0  # in the test set alone
    by_method = {entry["method"]: entry["groups"][0] for entry in comparison["methods"]}
    # What cannot be told apart keeps a high loss.
    assert by_method["loss"]["share_chosen"]["mean"] > 1.5 * by_method["loss"]["share_in_pool"]


def test_accuracies_of_the_groups_make_up_the_whole(compared):
    out, groups, _ = compared
    tested = groups[SIZE["train"] :]
    for entry in json.loads((out / "comparison.json").read_text())["methods"]:
        for seed, whole in enumerate(entry["final_accuracy"]["values"]):
            right = sum(
                group["final_accuracy"]["values"][seed] * np.sum(tested == group["name"])
                for group in entry["groups"]
            )
            assert right / SIZE["test"] == pytest.approx(whole)
        by_name = {group["name"]: group["final_accuracy"]["mean"] for group in entry["groups"]}
        assert by_name[GROUPS[0]] > by_name[GROUPS[1]] + 0.15


def test_the_page_has_the_table_also_when_made_again(compared):
    out, *_ = compared
    first = (out / "report.html").read_text()
    assert 'id="table-groups"' in first
    for text in (*GROUPS, 'data-key="chosen-loss"', 'data-key="accuracy-loss"'):
        assert text in first
    main(["report", str(out)])
    assert (out / "report.html").read_text() == first


def test_without_a_group_column_nothing_is_said(compared):
    out, _, command = compared
    plain = out.with_name("plain")
    command = [*command[:-1], str(plain), "--seeds", "1", "--epochs", "1"]
    main(command)
    comparison = json.loads((plain / "comparison.json").read_text())
    assert all(entry["groups"] is None for entry in comparison["methods"])
    assert "table-groups" not in (plain / "report.html").read_text()
    assert not list(plain.glob("runs/*/groups.json"))


def test_a_test_set_without_the_column_has_no_accuracies(compared, tmp_path):
    out, _, command = compared
    data = tmp_path / "data"
    data.mkdir()
    for part in SIZE:
        table = pq.read_table(out.parent / "data" / f"{part}.parquet")
        pq.write_table(
            table if part == "train" else table.drop_columns("light"), data / f"{part}.parquet"
        )
    words = [str(data) if word == str(out.parent / "data") else word for word in command[:-1]]
    main([*words, str(tmp_path / "out"), "--seeds", "1", "--group-column", "light"])
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for entry in comparison["methods"]:
        assert [g["name"] for g in entry["groups"]] == [GROUPS[1], GROUPS[0]]
        assert all(group["final_accuracy"] is None for group in entry["groups"])
        assert sum(group["share_chosen"]["mean"] for group in entry["groups"]) == pytest.approx(1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'data-key="chosen-loss"' in page
    assert 'data-key="accuracy-loss"' not in page
