"""A comparison that is killed at any moment and started again ends as if it had never stopped."""

import json
import signal
import subprocess
import sys
import time

import pytest

from goldiprox.cli import main

PROGRAM = [sys.executable, "-c", "from goldiprox.cli import main; main()"]
COMPARE = ["compare", "digits", "--methods", "uniform,rho-loss", "--seeds", "2", "--epochs", "6",
           "--model", "mlp-128", "--label-noise", "0.1", "--checkpoint-steps", "5"]  # fmt: skip


def without_seconds(value):
    """The same records without the clock, the digest of it, and the number of threads."""
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "second" not in k and
                k not in ("ledger", "command", "threads", "verdicts", "verdict", "at_equal_cost",
                          "goldiprox")}  # fmt: skip
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    main([*COMPARE, "--out", str(out)])
    return out


@pytest.mark.parametrize("moment", ["irreducible/manifest.json", "runs/rho-loss-0/checkpoint-*.pt"])
def test_killed_and_started_again(moment, whole, tmp_path):
    out = tmp_path / "broken"
    process = subprocess.Popen([*PROGRAM, *COMPARE, "--out", str(out)], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob(moment)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "comparison.json").exists()
    main([*COMPARE, "--out", str(out)])
    for run in sorted(path.name for path in (whole / "runs").iterdir()):
        for name in ("steps.parquet", "model.safetensors", "result.json"):
            one, other = (folder / "runs" / run / name for folder in (whole, out))
            assert one.read_bytes() == other.read_bytes(), (run, name)
    found, expected = (json.loads((folder / "comparison.json").read_text())
                       for folder in (out, whole))  # fmt: skip
    assert without_seconds(found) == without_seconds(expected)
    assert (out / "report.html").exists()
