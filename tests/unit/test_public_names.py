"""The package: its public names, and what importing it loads."""

import subprocess
import sys

import pytest

import goldiprox

HEAVY = ("torch", "numpy", "pyarrow", "PIL", "matplotlib", "sklearn", "scipy", "rich", "tyro")


def loaded_after(code):
    """Which heavy modules a fresh interpreter has loaded after some code."""
    report = f"import sys; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import goldiprox; goldiprox.__version__; dir(goldiprox)") == []


def test_choosing_loads_no_laboratory():
    loaded = loaded_after("import goldiprox; goldiprox.Chooser; goldiprox.with_ids")
    assert "torch" in loaded
    assert not {"PIL", "matplotlib", "sklearn", "scipy", "rich", "tyro"} & set(loaded)


@pytest.mark.parametrize("name", goldiprox.__all__)
def test_every_public_name_is_there_and_described(name):
    value = getattr(goldiprox, name)
    assert name in dir(goldiprox)
    assert isinstance(value, str | dict) or value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'choser'"):
        goldiprox.choser  # noqa: B018
