"""How a workflow tells what it is doing."""

from __future__ import annotations

from goldiprox.training.task import Report

__all__ = ["Progress"]


class Progress:
    """Told of the stages of a long job; this one is silent, the command line's draws bars."""

    def stage(self, name: str) -> Report:
        """Begin a stage (a run, a calibration); the report is called as it advances."""
        del name
        return lambda *_: None

    def said(self, text: str) -> None:
        """Say what the user has to know, such as a setting that was changed."""
        del text

    def note(self, text: str) -> None:
        """Say that something came to its end, within a stage."""
        del text
