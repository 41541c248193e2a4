"""Things of the user's own by name: ``package.module:name``, also from a module beside the user."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from goldiprox.schema import ConfigError

__all__ = ["import_named"]


def import_named(name: str, what: str) -> object:
    """Import ``package.module:attribute``.

    Args:
        name: where it is.
        what: what is looked for, for the message: ``model``, ``method``.

    Returns:
        The attribute.

    Raises:
        ConfigError: if the module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = name.partition(":")
    # A module beside the user, as `python -m` would find it.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, ValueError) as error:  # ValueError: nothing before the colon
        raise ConfigError(f'cannot import {what} "{name}": {error}') from error
    except AttributeError as error:
        raise ConfigError(f'{what} "{name}": module {module_name} has no {attribute}') from error
    return found
