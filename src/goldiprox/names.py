"""Names: the user's own ``package.module:name`` may be imported, a name from a file never.

The difference is one of type. Every string that a guarded reader takes from a file is a
:class:`FromFile`; what the user gives on the command line or as an argument is a plain ``str``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from goldiprox.schema import ConfigError

__all__ = ["FromFile", "from_file", "import_named", "name_of", "require_own"]


class FromFile(str):
    """A text that a file holds: to be shown, compared and looked up, and never to be obeyed."""

    __slots__ = ()


_IMPORTED: dict[str, object] = {}
"""What the user has named in this process: files may name that again."""


_GIVEN: dict[str, object] = {}
"""What was handed over as an object, by the name that settings know it by."""


def name_of(value: object) -> str:
    """A name for an object, by which settings and records may know it in this process.

    Another process can import it by that name if it stands at the top of a module.

    Args:
        value: a function, a class, or an object of one.

    Returns:
        ``package.module:name``; with a number behind it where another object has that name. An
        object made again, by the same code and with equal attributes, has the same name.
    """
    described = value if hasattr(value, "__qualname__") else type(value)
    base = f"{described.__module__}:{described.__qualname__}"
    name, number = base, 1
    while name in _GIVEN and not _alike(_GIVEN[name], value):
        number += 1
        name = f"{base}-{number}"
    _GIVEN[name] = _IMPORTED[name] = value
    return name


def _alike(one: object, other: object) -> bool:
    """Whether two objects are the same but for having been made twice, as in a call repeated."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, type):
        return False
    code = getattr(one, "__code__", None)
    try:
        if code is None:
            return bool(vars(one) == vars(other))
        parts = ("__code__", "__defaults__", "__kwdefaults__", "__closure__")
        return all(bool(getattr(one, part) == getattr(other, part)) for part in parts)
    except (TypeError, RuntimeError, ValueError):  # no attributes, or tensors among them
        return False


def from_file(value: Any) -> Any:
    """A JSON value with every text in it marked; keys stay as they are."""
    if isinstance(value, str):
        return FromFile(value)
    if isinstance(value, list):
        return [from_file(item) for item in value]
    if isinstance(value, dict):
        return {key: from_file(item) for key, item in value.items()}
    return value


def require_own(name: str, what: str) -> None:
    """Refuse a name that comes from a file, unless the user has named the same in this process.

    Args:
        name: anything that would be imported, downloaded or opened by it.
        what: ``model``, ``method``, for the message.

    Raises:
        ConfigError: naming it.
    """
    if isinstance(name, FromFile) and str(name) not in _IMPORTED:
        raise ConfigError(
            f'a file names the {what} "{name}", and what a file names is never imported or '
            f"downloaded; if you trust it, name the {what} yourself on the command line"
        )


def import_named(name: str, what: str) -> object:
    """Import ``package.module:attribute``, also from a module beside the user.

    Args:
        name: where it is, as the user has given it.
        what: what is looked for, for the message: ``model``, ``method``.

    Returns:
        The attribute.

    Raises:
        ConfigError: if the name comes from a file, the module cannot be imported, or it has no such
            attribute.
    """
    if str(name) in _GIVEN:
        return _GIVEN[str(name)]
    require_own(name, what)
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
    _IMPORTED[str(name)] = found
    return found
