"""What the process of the command line sees to before a command runs."""

import os
import signal
import subprocess
import sys

import pytest

from goldiprox.commands import process
from goldiprox.config import TrainConfig
from goldiprox.data.settings import DataConfig
from goldiprox.schema import ConfigError
from goldiprox.selection.pruning import PruneRule
from goldiprox.training.optimization import resolve_device
from goldiprox.training.task import CheckpointEvery


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"},
        {"OMPI_COMM_WORLD_SIZE": "8"},
        {"PMI_SIZE": "2"},
    ],
)
def test_one_of_several_processes_is_refused_and_told_by_whom(variables):
    with pytest.raises(ConfigError, match=f"{next(iter(variables))}=.*launcher"):
        process.require_one_process("train", variables)


@pytest.mark.parametrize(
    "variables", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}, {"SLURM_NTASKS": "8"}]
)
def test_one_process_alone_may_run(variables):
    process.require_one_process("train", variables)


def test_only_what_is_there_is_promised_to_who_interrupts(tmp_path):
    out = tmp_path / "run"
    command = ["train", "digits", "--out", str(out)]
    assert "from the beginning" in process.interruption(command)
    (out / "irreducible").mkdir(parents=True)
    (out / "irreducible" / "result.json").write_text("{}")
    assert "runs that are finished" in process.interruption(command)
    (out / "checkpoint-000000000005-0123456789abcdef.pt").write_text("")
    assert "from the last checkpoint" in process.interruption(command)
    assert "from the last checkpoint" in process.interruption(["train", f"--out={out}"])
    assert "from the beginning" in process.interruption(["methods"])


def test_a_second_signal_ends_the_process_without_a_word():
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from goldiprox.commands.process import end_quietly_on_signals\n"
        "end_quietly_on_signals()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
        "except KeyboardInterrupt:\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
        "    finally:\n"
        "        print('unwound twice')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        process.end_quietly_on_signals()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


def test_a_locale_that_is_not_utf8_starts_the_program_again_in_utf8_mode(monkeypatch):
    monkeypatch.setattr(process.sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setattr(process.sys, "orig_argv", ["python", "-c", "code", "läufe"])
    monkeypatch.delenv("PYTHONUTF8", raising=False)
    started = []
    process.use_utf8(lambda *call: started.append(call))
    [(program, arguments, environment)] = started
    assert program == sys.executable
    assert arguments == [sys.executable, "-c", "code", "läufe"]
    assert environment == {**os.environ, "PYTHONUTF8": "1"}
    monkeypatch.setenv("PYTHONUTF8", "1")  # never for ever
    process.use_utf8(lambda *call: started.append(call))
    assert len(started) == 1


def test_an_argument_that_is_not_utf8_is_refused():
    process.require_utf8_arguments(["train", "läufe"])
    with pytest.raises(ConfigError, match=r"l\\udce4ufe.*UTF-8"):
        process.require_utf8_arguments(["train", os.fsdecode(b"l\xe4ufe")])


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"seconds": float("nan")}, "nan"),
        ({"seconds": 0.0}, "0.0"),
        ({"seconds": -1.0}, "-1"),
        ({"seconds": float("inf")}, "inf"),
        ({"steps": 0}, "0"),
        ({"steps": -1}, "-1"),
    ],
)
def test_checkpoints_that_would_never_be_written_are_refused(settings, value):
    with pytest.raises(ConfigError, match=f"--checkpoint-{next(iter(settings))} is {value}"):
        CheckpointEvery(**settings)


@pytest.mark.parametrize("seed", [-1, 2**63, 99999999999999999999999])
def test_seeds_that_records_cannot_hold_are_refused(seed):
    for make, flag in (
        (lambda: TrainConfig(seed=seed), "--seed"),
        (lambda: PruneRule(seed=seed), "--seed"),
        (lambda: DataConfig(dataset="digits", data_seed=seed), "--data-seed"),
    ):
        with pytest.raises(ConfigError, match=f"{flag} is {seed}; give a whole number from 0"):
            make()


@pytest.mark.parametrize("name", ["meta", "mps", "xpu:0", "nonsense"])
def test_devices_that_cannot_train_are_refused(name):
    with pytest.raises(ConfigError, match="use cpu, cuda, cuda:N or auto"):
        resolve_device(name)


def test_more_copies_than_memory_holds_are_refused():
    with pytest.raises(ConfigError, match="--duplicate 1e\\+12"):
        DataConfig(dataset="digits", duplicate=1e12)
