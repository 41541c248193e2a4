"""The command line from end to end, on the embedded digits: outputs, resuming, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import fails, run

from goldiprox.cli import COMMANDS
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable

SMALL = ["--model", "mlp-128", "--pool", "64", "--batch", "8"]
IL = ["--il.epochs", "2"]


def compare_digits(out: Path, *more: object) -> None:
    methods = "uniform,uniform-full,loss,irreducible,rho-loss"
    run(
        *("compare", "digits", "--methods", methods, "--label-noise", "0.2", "--seeds", 2),
        *("--epochs", 2, *SMALL, *IL, "--out", out, *more),
    )


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    compare_digits(out)
    return out


@pytest.fixture(scope="module")
def il_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("il") / "il.parquet"
    run("irreducible", "digits", "--epochs", 2, "--out", path)
    return path


def test_compare_writes_what_the_contract_names(comparison: Path) -> None:
    found = json.loads((comparison / "comparison.json").read_text())
    assert found["dataset"] == "digits"
    names = [m["method"] for m in found["methods"]]
    assert names == ["uniform", "uniform-full", "loss", "irreducible", "rho-loss"]
    keys = {
        *("method", "seeds", "final_accuracy", "best_accuracy", "epochs_to_target"),
        *("steps_to_target", "seconds_to_target", "flops_to_target", "speedup_over_uniform"),
        *("selected_share", "ledger"),
    }
    for entry in found["methods"]:
        assert keys <= entry.keys()
        assert entry["seeds"] == 2
        assert {"mean", "std"} <= entry["final_accuracy"].keys()
        assert {"charged", "amortised"} <= entry["seconds_to_target"].keys()
    shares = {m["method"]: m["selected_share"]["corrupted"] for m in found["methods"]}
    assert shares["irreducible"] < shares["uniform"] < shares["loss"]
    page = (comparison / "report.html").read_text()
    assert "Did it pay" in page
    assert (comparison / "runs" / "rho-loss-1" / "steps.parquet").exists()


def test_seeds_are_paired(comparison: Path) -> None:
    """Same pools for every method: what uniform and rho-loss chose at a step came from one pool."""
    for seed in (0, 1):
        uniform, rho = (
            read_steps(comparison / "runs" / f"{name}-{seed}") for name in ("uniform", "rho-loss")
        )
        pools: dict[int, set[int]] = {}
        for table in (uniform, rho):
            for row in table.select(["step", "epoch", "ids"]).to_pylist():
                pools.setdefault(row["step"], set()).update(row["ids"])
        # Within an epoch no candidate is in two pools.
        per_epoch = uniform.num_rows // 2
        first = [pools[step] for step in range(per_epoch)]
        assert sum(map(len, first)) == len(set().union(*first))


def test_compare_again_trains_nothing_and_says_the_same(comparison: Path) -> None:
    before = (comparison / "comparison.json").read_bytes()
    times = {p: p.stat().st_mtime_ns for p in comparison.glob("runs/*/result.json")}
    compare_digits(comparison)
    assert (comparison / "comparison.json").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in comparison.glob("runs/*/result.json")} == times


def test_compare_refuses_a_folder_of_another_comparison(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(
        capsys,
        "compare",
        "digits",
        "--methods",
        "uniform",
        "--epochs",
        3,
        *SMALL,
        "--out",
        comparison,
    )
    assert "another comparison" in line
    assert "--out" in line


def test_report_can_be_made_again_from_run_folders(comparison: Path, tmp_path: Path) -> None:
    runs = [comparison / "runs" / f"{name}-0" for name in ("uniform", "rho-loss")]
    run("report", *runs, "--out", tmp_path)
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert [m["method"] for m in found["methods"]] == ["uniform", "rho-loss"]
    assert (tmp_path / "report.html").exists()
    before = (comparison / "report.html").read_bytes()
    run("report", comparison)
    assert (comparison / "report.html").read_bytes() == before


def test_budget_protocol_gives_every_arm_the_same_reference_seconds(tmp_path: Path) -> None:
    run(
        *("compare", "digits", "--protocol", "budget", "--seconds", 2, "--seeds", 2),
        *("--methods", "uniform,rho-loss", "--batch", "8,16", "--model", "mlp-128", *IL),
        *("--out", tmp_path),
    )
    costs = json.loads((tmp_path / "calibration.json").read_text())["seconds"]
    for folder in (tmp_path / "runs").iterdir():
        manifest = json.loads((folder / "manifest.json").read_text())
        reference, steps = manifest["reference"], manifest["config"]["train"]["steps"]
        spent = reference["irreducible_seconds"] + steps * reference["step_seconds"]
        assert 2 - reference["step_seconds"] < spent <= 2
        assert reference["step_seconds"] in costs.values()
        assert (reference["irreducible_seconds"] > 0) == (manifest["arm"] == "rho-loss")
        rates = read_steps(folder)["lr"].to_numpy()
        assert rates[-1] < 0.05 * rates.max()
    found = json.loads((tmp_path / "comparison.json").read_text())
    for entry in found["methods"]:
        by_batch = {int(k): v["mean"] for k, v in entry["final_accuracy_by_batch"].items()}
        assert entry["final_accuracy"]["mean"] == by_batch[entry["batch"]] == max(by_batch.values())


def test_halves_train_on_everything_and_charge_both_models(tmp_path: Path) -> None:
    methods = "uniform,rho-loss,irreducible-filter"
    command = ["compare", "digits", "--holdout-mode", "halves", "--methods", methods, *IL]
    command += ["--protocol", "budget", "--seconds", 2, "--seeds", 1, "--label-noise", 0.2]
    run(*command, "--model", "mlp-128", "--out", tmp_path)
    table = ScoreTable.read(tmp_path / "irreducible.parquet")
    models = table.provenance["models"]
    costs = json.loads((tmp_path / "calibration.json").read_text())["seconds"]
    passes = sum(m["validated_on"] * m["evaluations"] for m in models) + len(table)
    paid = sum(m["training_steps"] for m in models) * costs["irreducible-loss model, step"]
    paid += passes / 1000 * costs["irreducible-loss model, pass over 1000 examples"]
    sizes = set()
    for name in methods.split(","):
        (folder,) = (tmp_path / "runs").glob(f"{name}-b*")
        manifest = json.loads((folder / "manifest.json").read_text())
        sizes.add(manifest["data"]["sizes"]["train"])
        expected = 0 if name == "uniform" else paid
        assert manifest["reference"]["irreducible_seconds"] == pytest.approx(expected)
    assert sizes == {len(table)}
    assert len(models) == 2
    found = json.loads((tmp_path / "comparison.json").read_text())
    share = {m["method"]: m["selected_share"]["corrupted"] for m in found["methods"]}
    assert share["irreducible-filter"] < share["uniform"]


TRAIN = [
    "train",
    "digits",
    "--method",
    "rho-loss",
    "--label-noise",
    "0.1",
    "--epochs",
    "30",
    *SMALL,
]


def _files(folder: Path) -> dict[str, bytes]:
    return {n: (folder / n).read_bytes() for n in ("steps.parquet", "model.safetensors")}


@pytest.mark.parametrize("attempt", range(2))
def test_killed_at_a_random_step_and_resumed_ends_the_same(attempt: int, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [*TRAIN, "--checkpoint-steps", "5"]
    run(*command, "--out", whole)
    program = [sys.executable, "-c", "from goldiprox.cli import main; main()"]
    process = subprocess.Popen(
        [*program, *command, "--out", str(broken)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not list(broken.glob("checkpoint-*.pt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(float(np.random.default_rng().uniform(0, 0.2)) * attempt)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()
    run(*command, "--out", broken)
    assert _files(broken) == _files(whole)
    assert not list(broken.glob("checkpoint-*"))


def test_damaged_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    program = [sys.executable, "-c", "from goldiprox.cli import main; main()"]
    command = [*TRAIN, "--method", "uniform", "--checkpoint-steps", "5", "--out", str(folder)]
    process = subprocess.Popen([*program, *command], stderr=subprocess.DEVNULL)
    while not list(folder.glob("checkpoint-*.pt")) and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    found = list(folder.glob("checkpoint-*.pt"))
    if not found:
        pytest.skip("the run ended before it could be killed")
    data = bytearray(found[0].read_bytes())
    data[len(data) // 2] ^= 1
    found[0].write_bytes(data)
    line = fails(capsys, *command)
    assert "damaged" in line
    assert str(found[0]) in line


def test_no_space_left_keeps_what_was_written(tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: the write fails in the middle."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from goldiprox.cli import main; main()"
    )
    folder = tmp_path / "run"
    command = [*TRAIN, "--method", "uniform", "--checkpoint-steps", "5", "--out", str(folder)]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("goldiprox: cannot write")
    assert "--out" in last
    assert json.loads((folder / "manifest.json").read_text())["arm"] == "uniform"
    assert not list(folder.glob(".*.part"))


BAD = {
    "unknown data set": (["train", "digitz"], ["digitz", "digits", "fashion-mnist", "cifar10"]),
    "unknown method": (
        ["train", "digits", "--method", "rho"],
        ["rho-loss", "uniform", "irreducible"],
    ),
    "unknown arm": (["compare", "digits", "--methods", "uniform,best"], ["best", "rho-loss"]),
    "unknown model": (
        ["train", "digits", "--model", "mpl"],
        ["mpl", "mlp", "package.module:factory"],
    ),
    "model that does not import": (
        ["train", "digits", "--model", "no.such:thing"],
        ["no.such:thing"],
    ),
    "no data": (["train", "fashion-mnist", "--data-dir", "/nonexistent"], ["/nonexistent"]),
    "noise too high": (["train", "digits", "--label-noise", "1"], ["1.0"]),
    "negative noise": (["train", "digits", "--label-noise", "-0.1"], ["-0.1"]),
    "batch above pool": (["train", "digits", "--batch", "64", "--pool", "32"], ["64", "32"]),
    "pool above data": (["train", "digits", "--pool", "5000"], ["5000", "719"]),
    "budget without seconds": (["compare", "digits", "--protocol", "budget"], ["--seconds"]),
    "seconds without budget": (["compare", "digits", "--seconds", "3"], ["--protocol budget"]),
    "too small a budget": (
        ["compare", "digits", "--protocol", "budget", "--seconds", "1e-7", *IL],
        ["1e-07", "uniform", "--seconds"],
    ),
    "CUDA where there is none": (["train", "digits", "--device", "cuda:7"], ["cuda:7", "cpu"]),
    "device without meaning": (["train", "digits", "--device", "abacus"], ["abacus", "cpu"]),
    "absent table": (["train", "digits", "--irreducible", "no.parquet"], ["no.parquet"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = BAD[case]
    line = fails(capsys, *arguments, "--out", tmp_path / "out")
    for word in expected:
        assert word in line


def test_table_for_other_data_labels_or_ids_is_refused(
    il_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use = ["train", "digits", *SMALL, "--irreducible", il_table, "--out", tmp_path / "run"]
    line = fails(capsys, *use, "--label-noise", "0.1")
    assert "labels" in line
    assert "goldiprox irreducible digits" in line
    line = fails(capsys, *use, "--data-seed", "1")
    assert "lacks" in line
    compare = ["compare", "digits", *SMALL, "--methods", "uniform", "--irreducible", il_table]
    line = fails(capsys, *compare, "--data-seed", "1", "--out", tmp_path / "unneeded")
    assert "lacks" in line  # before anything is trained, though no method needs it
    assert not (tmp_path / "unneeded").exists()
    table = ScoreTable.read(il_table)
    other = ScoreTable(
        ids_N=table.ids_N,
        columns=table.columns,
        provenance={**table.provenance, "fingerprint": "0" * 64},
    )
    other.write(tmp_path / "other.parquet")
    use[use.index(il_table)] = tmp_path / "other.parquet"
    assert "other data" in fails(capsys, *use)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_table_of_other_settings_is_not_handed_out_again(
    il_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = il_table.read_bytes()
    again = ["irreducible", "digits", "--epochs", 2, "--out", il_table]
    run(*again)
    assert il_table.read_bytes() == before
    line = fails(capsys, *again, "--model", "mlp-512")
    assert "irreducible.model is mlp-128 there, mlp-512 now" in line
    assert str(il_table) in line
    assert il_table.read_bytes() == before


def test_a_table_of_ones_own_numbers_or_weights_is_used(
    il_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ScoreTable.read(il_table)
    plain = tmp_path / "plain.csv"
    rows = zip(table.ids_N.tolist(), table.columns[IRREDUCIBLE_LOSS].tolist(), strict=True)
    plain.write_text("row,nats\n" + "".join(f"{i},{v!r}\n" for i, v in rows))
    out = tmp_path / "numbers.parquet"
    columns = ["--id-column", "row", "--value-column", "nats"]
    run("irreducible", "digits", "--values", plain, *columns, "--out", out)
    weights = f"{il_table}.run/model.safetensors"
    scored = tmp_path / "scored.parquet"
    given = ["irreducible", "digits", "--model", "mlp-128", "--weights", weights]
    run(*given, "--out", scored)
    for path in (out, scored):
        found = ScoreTable.read(path)
        losses = dict(zip(found.ids_N, found.columns[IRREDUCIBLE_LOSS], strict=True))
        expected = dict(zip(table.ids_N, table.columns[IRREDUCIBLE_LOSS], strict=True))
        assert losses == pytest.approx(expected, rel=1e-5)
        short = ["train", "digits", *SMALL, "--epochs", 1, "--irreducible", path]
        run(*short, "--out", tmp_path / f"run-{path.stem}")
    run(*given, "--out", scored)  # the same again is no other table
    line = fails(capsys, "irreducible", "digits", "--values", plain, *columns, "--out", scored)
    assert "other settings" in line
    line = fails(capsys, *given, "--values", plain, "--out", tmp_path / "both.parquet")
    assert "exclude each other" in line


def test_irreducible_table_is_used_and_charged(il_table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(
        *(
            "compare",
            "digits",
            "--methods",
            "uniform,rho-loss",
            "--seeds",
            1,
            "--epochs",
            1,
            *SMALL,
        ),
        *("--irreducible", il_table, "--out", out),
    )
    assert not (out / "irreducible.parquet").exists()
    found = json.loads((out / "comparison.json").read_text())
    rho = found["methods"][1]["ledger"]["phases"]
    assert rho["irreducible-training"]["seconds"] > 0
    table = pq.read_table(il_table)
    assert table.column_names == ["id", IRREDUCIBLE_LOSS]


def test_diverging_run_stops_names_step_and_ids_and_keeps_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diverging_model.py").write_text(
        "import torch\n"
        "class Diverges(torch.nn.Module):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(64, classes)\n"
        "        self.register_buffer('calls', torch.zeros(()))\n"
        "    def forward(self, x):\n"
        "        if self.training:\n"
        "            self.calls += 1\n"
        "        return self.layer(x.flatten(1)) * (float('nan') if self.calls > 12 else 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    run_folder = tmp_path / "run"
    line = fails(
        *(capsys, "train", "digits", "--method", "uniform", "--batch", 8, "--pool", 64),
        *("--model", "diverging_model:Diverges", "--checkpoint-steps", 5, "--out", run_folder),
    )
    assert "step 12" in line
    assert "ids" in line
    (kept,) = run_folder.glob("checkpoint-*.pt")
    state = torch.load(kept, weights_only=True)
    assert state["step"] == 10
    assert all(torch.isfinite(v).all() for v in state["model"].values())


def test_methods_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    run("methods")
    shown = capsys.readouterr().out
    for name in ("uniform", "loss", "irreducible", "rho-loss"):
        assert name in shown


def test_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    # What a shell starts in the background ignores interruptions, and hands that on to us.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = [sys.executable, "-c", f"{heard}; from goldiprox.cli import main; main()"]
    process = subprocess.Popen(
        [*program, *TRAIN, "--epochs", "2000", "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (tmp_path / "manifest.json").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1].startswith("goldiprox: interrupted")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser refuses two flags of one name only when it is made, and only in that command."""
    with pytest.raises(SystemExit) as stopped:
        run(name, "--help")
    assert stopped.value.code == 0
    assert name in capsys.readouterr().out
