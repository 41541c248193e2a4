"""One process writes to a folder, and stops when it is taken away."""

import fcntl
import os
import shutil
import subprocess
import sys

import pytest

from goldiprox.records.files import whole_file, write_json
from goldiprox.records.owner import writing
from goldiprox.schema import CheckpointError

HOLD = """
import sys, time
from pathlib import Path
from goldiprox.records.owner import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    out = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "held\n"
        refused = pytest.raises(CheckpointError, match="another goldiprox process is writing to")
        with refused, writing(out):
            pass
        other.kill()
    with writing(out):
        assert list(out.iterdir()) == []  # nothing is left of the lock


def test_the_process_that_has_a_folder_may_take_it_again(tmp_path):
    with writing(tmp_path / "a"):
        with writing(tmp_path / "a"):
            write_json(tmp_path / "a" / "x.json", {})
        write_json(tmp_path / "a" / "y.json", {})
    with writing(tmp_path / "a"):
        pass


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with writing(tmp_path / "a"):
        pass
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_nothing_is_written_to_a_folder_that_was_taken_away(how, tmp_path):
    out = tmp_path / "run"
    with writing(out):
        write_json(out / "a.json", {})
        shutil.move(out, tmp_path / "gone") if how != "deleted" else shutil.rmtree(out)
        if how == "replaced":
            out.mkdir()
        with pytest.raises(CheckpointError, match="run was deleted or replaced"):
            write_json(out / "steps" / "b.json", {})
        assert not (out / "steps").exists()


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    dead, alive = (tmp_path / f".k.{digit * 16}.part" for digit in "0a")
    dead.write_text("half")
    handle = os.open(alive, os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with whole_file(tmp_path / "k") as temporary:
        temporary.write_text("whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == [alive.name, "k"]
    os.close(handle)
    with writing(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == ["k"]
