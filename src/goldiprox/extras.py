"""What the laboratory needs beyond the library, and what to say where it is absent."""

from __future__ import annotations

__all__ = ["LABORATORY", "advice"]

LABORATORY = {
    "PIL": "pillow",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tyro": "tyro",
}
"""Modules of the extra ``lab``, and the packages that they come in."""


def advice(what: str, error: ModuleNotFoundError) -> str | None:
    """What to say where one of the laboratory's packages is absent.

    Args:
        what: was asked for, such as a command.
        error: what importing it ended with.

    Returns:
        One line; None if the module is none of the laboratory's.
    """
    package = LABORATORY.get((error.name or "").partition(".")[0])
    if package is None:
        return None
    return f"{what} needs {package}, which is not installed: pip install 'goldiprox[lab]'"
