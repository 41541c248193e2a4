"""Running the command line in this process, as the end-to-end tests do."""

from __future__ import annotations

import pytest

from goldiprox.cli import main

__all__ = ["fails", "run"]


def run(*arguments: object) -> None:
    """Run a command that must succeed."""
    main([str(a) for a in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with one line on stderr; return the line."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    lines = [line for line in shown.splitlines() if line.startswith("goldiprox:")]
    assert len(lines) == 1, shown
    assert shown.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("goldiprox: ")
