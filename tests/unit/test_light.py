"""What is not asked for is not loaded, and the library works without the laboratory's packages."""

import re
import resource
import subprocess
import sys
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from goldiprox.cli import COMMANDS
from goldiprox.extras import LABORATORY

HEAVY = ("torch", "numpy", "pyarrow", *LABORATORY)

ABSENT = f"""
import sys
for name in {sorted(LABORATORY)}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
"""


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code, names=HEAVY):
    shown = python(
        f"{code}\nimport sys\nprint('loaded', *(n for n in {names} if n in sys.modules))"
    )
    return shown.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["-h"]])
def test_version_and_help_load_nothing_heavy(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert loaded_by(f"from goldiprox.cli import main; main({arguments})") == []
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert seconds < 10  # half a second is promised; a busy machine decides no test


def test_no_command_and_an_unknown_one_are_answered_at_once():
    for arguments, says in [([], "goldiprox COMMAND --help"), (["trian"], "did you mean train?")]:
        shown = python(f"""
            import sys
            from goldiprox.cli import main
            sys.stderr = sys.stdout
            try:
                main({arguments})
            except SystemExit as stopped:
                print(stopped.code, "torch" in sys.modules)
        """)
        assert says in shown
        assert shown.splitlines()[-1] == "2 False"


def test_version_names_the_torch_that_would_be_loaded(capsys):
    import torch

    from goldiprox.cli import main

    main(["--version"])
    assert f"(torch {torch.__version__}, Python " in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_what_the_command_says_of_itself(name):
    command = COMMANDS[name]
    function = getattr(import_module(f"goldiprox.commands.{command.module}"), command.function)
    assert function.__doc__.splitlines()[0] == command.summary


def test_the_package_loads_nothing_until_a_name_is_used():
    assert loaded_by("import goldiprox") == []


LOOP = """
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
import goldiprox

data = goldiprox.with_ids(TensorDataset(torch.randn(64, 4), torch.randint(0, 3, (64,))))
model, small = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
table = goldiprox.irreducible_losses(small, DataLoader(data, batch_size=32))
choose = goldiprox.Chooser(model, "rho-loss", share=0.25, irreducible=table)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""


def test_choosing_loads_nothing_of_the_laboratory_nor_pyarrow():
    loop = LOOP + "chosen = [len(choose(pool).weights) for pool in DataLoader(data, batch_size=32)]"
    assert loaded_by(f"{loop}\nassert chosen == [8, 8]", ("pyarrow", *LABORATORY)) == []


def test_the_library_works_without_the_laboratory_s_packages(tmp_path):
    shown = python(
        ABSENT
        + LOOP
        + f"""
table.write("{tmp_path}/il.parquet")
choose = goldiprox.Chooser(model, "rho-loss", share=0.25, irreducible="{tmp_path}/il.parquet")
with goldiprox.Recorder("{tmp_path}/run", choose, data="noise", examples=64) as record:
    for pool in DataLoader(data, batch_size=32):
        with record.phase("scoring", pool):
            chosen = choose(pool)
        with record.phase("training", chosen):
            _, inputs, labels = chosen.batch
            losses = functional.cross_entropy(model(inputs), labels, reduction="none")
            optimizer.zero_grad()
            (losses * chosen.weights).mean().backward()
            optimizer.step()
        record.step(chosen, losses)
    record.evaluate(accuracy=0.5)
print(record.steps)
try:
    goldiprox.compare
except ModuleNotFoundError as error:
    print(error)
"""
    )
    steps, line = shown.splitlines()
    assert steps == "2"
    assert line.startswith("goldiprox.compare needs ")
    assert line.endswith("pip install 'goldiprox[lab]'")
    assert (tmp_path / "run" / "result.json").exists()


def test_the_laboratory_s_packages_are_the_extra():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    required = [re.split("[>=<]", text)[0] for text in project["optional-dependencies"]["lab"]]
    assert sorted(required) == sorted(LABORATORY.values())
    assert not set(required) & {re.split("[>=<]", text)[0] for text in project["dependencies"]}


def test_a_command_without_its_packages_says_what_to_install():
    shown = python(
        ABSENT
        + """
from goldiprox.cli import main
sys.stderr = sys.stdout
try:
    main(["train", "digits", "--out", "never"])
except SystemExit as stopped:
    print(stopped.code)
"""
    )
    line, status = shown.splitlines()
    assert re.fullmatch(
        r"goldiprox: goldiprox train needs \S+, which is not installed: "
        r"pip install 'goldiprox\[lab\]'",
        line,
    )
    assert status == "1"
