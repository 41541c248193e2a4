"""Data flows one way through the house: no room imports a room to its right.

The rule is enforced on the syntax tree, so imports inside functions and under TYPE_CHECKING count.
"""

import ast
import sys
from pathlib import Path

import pytest

import goldiprox
from goldiprox.extras import LABORATORY

ROOT = Path(goldiprox.__file__).parent

ALLOWED = {
    "version": set(),
    "errors": set(),
    "extras": set(),
    "csv_files": {"schema"},
    "schema": {"errors"},
    "seeds": set(),
    "names": {"schema"},
    "content": {"schema"},
    "entries": {"schema"},
    "batch": {"schema", "entries"},
    "objectives": {"schema", "batch", "names"},
    "guarded": {"schema", "names"},
    "data": {"schema", "seeds", "batch", "wrap", "csv_files", "guarded"},
    "wrap": {"schema", "batch"},
    "selection": {"schema", "seeds", "names"},
    "evidence": {"schema", "entries", "batch", "seeds", "objectives"},
    "models": {"schema", "names"},
    "records": {"schema", "version", "csv_files", "names", "guarded"},
    "config": {"schema", "selection", "evidence", "objectives"},
    "chooser": {"schema", "seeds", "batch", "objectives", "evidence", "selection", "records"},
    "irreducible": {"schema", "batch", "wrap", "objectives", "evidence", "records"},
    "training": {"schema", "seeds", "batch", "chooser", "names", "guarded", "data", "selection",
                 "evidence", "models", "records", "config", "objectives", "loggers"},
    "precompute": {"schema", "seeds", "batch", "chooser", "names", "guarded", "data", "selection",
                   "evidence", "models", "records", "config", "objectives", "training"},
    "analysis": {"schema", "seeds", "guarded", "objectives", "selection", "records", "config"},
    "report": {"schema", "guarded", "objectives", "selection", "records", "analysis"},
    "loggers": {"schema"},
    "recorder": {"schema", "batch", "chooser", "evidence", "objectives", "records", "config",
                 "loggers"},
}  # fmt: skip
ROOMS_BELOW = set(ALLOWED)
ALLOWED["workflows"] = ROOMS_BELOW
ALLOWED["studies"] = ROOMS_BELOW | {"workflows"}
ALLOWED["commands"] = ROOMS_BELOW | {"workflows", "studies"}
ALLOWED["cli"] = ROOMS_BELOW | {"workflows", "commands", "studies"}
# The package itself: the public names.
ALLOWED[""] = {
    "chooser",
    "content",
    "extras",
    "irreducible",
    "objectives",
    "recorder",
    "records",
    "schema",
    "selection",
    "version",
    "workflows",
    "wrap",
}

LIBRARY = {
    "batch",
    "chooser",
    "config",
    "content",
    "csv_files",
    "entries",
    "errors",
    "evidence",
    "extras",
    "guarded",
    "irreducible",
    "loggers",
    "names",
    "objectives",
    "recorder",
    "records",
    "schema",
    "seeds",
    "selection",
    "version",
    "wrap",
}
"""What somebody's trainer imports; all other rooms are the laboratory."""

EXTRA = {  # modules with more rights than their room, each for a stated reason
    "analysis.gallery": {"data"},  # shows pictures
}

THIRD_PARTY = {
    "errors": set(),
    "extras": set(),
    "cli": set(),
    "schema": {"torch"},
    "seeds": {"torch"},
    "version": set(),
    "names": set(),
    "content": {"torch", "numpy"},
    "entries": {"torch", "numpy"},
    "batch": {"torch", "numpy"},
    "objectives": {"torch", "numpy", "sklearn"},
    "selection": {"torch", "numpy"},
    "evidence": {"torch", "numpy"},
    "config": set(),
}
"""What the innermost rooms may import beyond the standard library."""

OPTIONAL = {"torchvision", "transformers", "datasets", "lightning", "accelerate"}
MAY_ADAPT = {"data", "models"}


def room_of(module):
    """``data.store`` stands in the room ``data``; ``schema`` is a room of its own."""
    return module.partition(".")[0]


def imports(source):
    """Pairs of (imported module, whether inside a function), relative imports refused."""
    found = []

    def walk(node, in_function):
        for child in ast.iter_child_nodes(node):
            inside = in_function or isinstance(
                child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
            )
            if isinstance(child, ast.Import):
                found.extend((alias.name, in_function) for alias in child.names)
            if isinstance(child, ast.ImportFrom):
                module = "." * child.level + (child.module or "")
                if module == "goldiprox":  # from goldiprox import schema
                    found.extend((f"goldiprox.{alias.name}", in_function) for alias in child.names)
                else:
                    found.append((module, in_function))
            walk(child, inside)

    walk(ast.parse(source), False)
    return found


def violations(module, source):
    """What a module imports that it may not: sentences."""
    room = room_of(module)
    if room not in ALLOWED:
        return [f"{module}: the room {room} has no place in the house; add it to ALLOWED"]
    allowed = ALLOWED[room] | EXTRA.get(module, set()) | {room}
    problems = []
    for name, in_function in imports(source):
        top, _, rest = name.partition(".")
        if name.startswith("."):
            problems.append(f"{module} imports {name} relatively")
        elif top == "goldiprox":
            if not rest or room_of(rest) not in allowed:
                problems.append(f"{module} may not import {name}")
        elif top in OPTIONAL:
            if room not in MAY_ADAPT:
                problems.append(f"{module} may not import the optional package {top}")
            elif not in_function:
                problems.append(f"{module} imports the optional package {top} at its top")
        elif room in THIRD_PARTY and top not in THIRD_PARTY[room] | set(sys.stdlib_module_names):
            problems.append(f"{module} may not import {top}")
    return problems


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=module_name)
def test_data_flows_one_way(path):
    assert violations(module_name(path), path.read_text()) == []


PLANTED = [
    ("schema", "import numpy"),
    ("seeds", "from goldiprox.schema import Evidence"),
    ("version", "import torch"),
    ("selection.functions", "from goldiprox.batch import take"),
    ("selection.functions", "import pandas as pd"),
    ("selection.methods", "from goldiprox.evidence.forward import ScoringPass"),
    ("evidence.forward", "from goldiprox.training.loop import train"),
    ("evidence.gradients.exact", "def f():\n    from goldiprox.models.vision import MLP"),
    ("data.store", "import goldiprox.selection.methods"),
    ("data.store", "from goldiprox import selection"),
    ("data.store", "import goldiprox"),
    ("models.vision", "if TYPE_CHECKING:\n    from goldiprox.config import TrainConfig"),
    ("records.tables", "try:\n    from goldiprox.data.store import Store\nexcept ImportError: ..."),
    ("analysis.compare", "from goldiprox.data.splits import Splits"),
    ("analysis.compare", "class A:\n    from goldiprox.training.loop import train"),
    ("report.html", "from goldiprox.data.splits import Splits"),
    ("chooser", "from goldiprox.precompute.irreducible import require_fitting"),
    ("chooser", "from goldiprox.workflows.train import train_one"),
    ("precompute.irreducible", "from goldiprox.analysis.compare import summarise"),
    ("workflows.train", "from goldiprox.cli import main"),
    ("commands.exchange", "from goldiprox.cli import main"),
    ("workflows.report", "from goldiprox.studies.grid.study import grid_of"),
    ("studies.grid.study", "from goldiprox.commands.grid import show_grid"),
    ("config", "from goldiprox.training.loop import train"),
    ("batch", "from ..schema import DataError"),
    ("models.vision", "import torchvision"),
    ("data.cifar", "from torchvision.datasets import CIFAR10"),
    ("chooser", "def f():\n    import accelerate"),
    ("workflows.train", "def f():\n    import transformers"),
    ("attic", "import torch"),
]


@pytest.mark.parametrize(("module", "source"), PLANTED)
def test_a_planted_violation_is_caught(module, source):
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("schema", "import torch\nfrom dataclasses import dataclass"),
        ("data.cifar", "def f():\n    from torchvision.datasets import CIFAR10"),
        ("models.text", "def f():\n    import transformers"),
        ("analysis.gallery", "from goldiprox.data.splits import Splits"),
        ("studies.dynamics.measures", "from goldiprox.evidence.forward import ScoringPass"),
        ("training.loop", "from goldiprox.records.tables import ScoreTable"),
        ("cli", "from goldiprox.workflows.compare import compare"),
    ],
)
def test_what_is_allowed_is_not_refused(module, source):
    assert violations(module, source) == []


def test_the_library_never_imports_the_laboratory():
    for room in LIBRARY:
        assert ALLOWED[room] <= LIBRARY, room


def test_the_library_imports_no_package_of_the_laboratory_at_its_top():
    """Inside functions they may be used where somebody asks for what needs them."""
    tops = {
        (module_name(path), name.partition(".")[0])
        for path in ROOT.rglob("*.py")
        for name, in_function in imports(path.read_text())
        if room_of(module_name(path)) in LIBRARY and not in_function
    }
    assert [pair for pair in tops if pair[1] in LABORATORY] == []


def circles(graph):
    """Groups of files that import each other, whether at once or by way of others."""

    def reached(start):
        seen, left = set(), [start]
        while left:
            new = graph.get(left.pop(), set()) - seen
            seen |= new
            left += new
        return seen

    after = {module: reached(module) for module in graph}
    return sorted({frozenset(m for m in after[n] if n in after[m]) for n in graph if n in after[n]})


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions and under TYPE_CHECKING count: they hide a circle, no more."""
    modules = {module_name(path): path.read_text() for path in ROOT.rglob("*.py")}
    graph = {module: targets(source, modules) for module, source in modules.items() if module}
    assert circles(graph) == []


def targets(source, modules):
    """The files that a source imports: ``from goldiprox.commands import grid`` is one of grid."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n[10:] in modules else node.module for n in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {n[10:] for n in names if n.startswith("goldiprox.")}
    return found


def test_a_planted_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [frozenset("bc")]
    modules = dict.fromkeys(["data.store", "data.text", "data"], "")
    assert targets("if TYPE_CHECKING:\n    from goldiprox.data import store", modules) == {
        "data.store"
    }
    assert targets("def f():\n    from goldiprox.data.text import Text", modules) == {"data.text"}


def test_the_order_of_the_rooms_has_no_circle():
    done = []
    left = dict(ALLOWED)
    while left:
        ready = [room for room, needs in left.items() if needs <= set(done)]
        assert ready, f"a circle among {sorted(left)}"
        done += ready
        for room in ready:
            del left[room]
