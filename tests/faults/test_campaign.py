"""The short form of the fault campaign; the long one is ``make faults``."""

import os
import subprocess
import sys
from pathlib import Path

CAMPAIGN = Path(__file__).parent / "campaign"


def test_killed_failing_and_mutated():
    found = subprocess.run(
        [sys.executable, CAMPAIGN, "--short"], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert "mutations                    460 done, 0 faults" in found.stdout
