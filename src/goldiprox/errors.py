"""The errors that are meant for the user; in a file that imports nothing, since help needs them."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GoldiproxError",
    "MissingEvidence",
    "NonFinite",
    "SequenceError",
    "TableError",
]


class GoldiproxError(Exception):
    """An error for the user: one line that names the value, the place and the remedy."""


class ConfigError(GoldiproxError):
    """A setting is impossible, or settings do not go together."""


class DataError(GoldiproxError):
    """A data set is absent, damaged or of the wrong form."""


class TableError(GoldiproxError):
    """A score table does not fit what it is asked for: other data, other labels, ids missing."""


class SequenceError(GoldiproxError):
    """A recorded sequence is damaged, or does not fit the data or the step it is replayed on."""


class CheckpointError(GoldiproxError):
    """A checkpoint or run folder is damaged or belongs to another configuration."""


class MissingEvidence(GoldiproxError):  # noqa: N818 - the name is part of the published contract
    """A score function was asked to work without evidence that it needs."""


class NonFinite(GoldiproxError):  # noqa: N818 - the name is part of the published contract
    """A score or a loss is NaN or infinite; the message names the ids."""
