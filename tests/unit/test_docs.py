"""The documents are true: method cards exist, links lead somewhere, the README's code runs."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from goldiprox.cli import COMMANDS
from goldiprox.models.vision import VISION_MODELS
from goldiprox.schema import Evidence
from goldiprox.selection.methods import METHODS
from goldiprox.selection.variants import MODIFIERS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_card_that_says_needs_cost_and_source(name: str) -> None:
    card = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    for word in ("**Needs**", "**Cost**", "**Source**", "**Helps**", "**Hurts**", "**Measured**"):
        assert word in card


def test_no_card_without_a_method() -> None:
    assert {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} == set(METHODS)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *map(str, (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_to_files(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{page}: {target}"


def test_commands_name_no_folder_of_the_machine_that_ran_them() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("    goldiprox"):
                assert not any(word.startswith("/") for word in line.split()), f"{page}: {line}"


def test_tables_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, "experiments/tables.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_readme_names_every_command_and_model() -> None:
    for command in COMMANDS:
        assert f"goldiprox {command}" in README
    for model in VISION_MODELS:
        assert f"`{model}`" in README


def test_readme_example_runs_and_trains_on_a_tenth() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    before = model[1].weight.detach().clone()
    names = {
        "data": TensorDataset(torch.randn(640, 1, 4, 4), torch.randint(0, 3, (640,))),
        "small_model": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)),
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "DataLoader": DataLoader,
        "F": F,
    }
    exec(code, names)
    assert len(names["labels"]) == 32
    assert not torch.equal(model[1].weight, before)


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example programs can be imported; what they register is forgotten."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples"), *sys.path])
    before = dict(METHODS)
    yield
    for name in set(METHODS) - set(before):
        del METHODS[name]


@pytest.mark.usefixtures("examples")
def test_example_program_learns() -> None:
    import own_loop

    assert own_loop.main(epochs=2) > 0.6


def test_the_documented_method_is_the_example_that_is_type_checked() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"(    @goldiprox\.method\(\n.*?)\nIt is compared", text, re.DOTALL)
    assert textwrap.dedent(shown).strip() in (ROOT / "examples" / "own_method.py").read_text()
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert checked["strict"]
    assert "examples/own_method.py" in checked["files"]


@pytest.mark.usefixtures("examples")
def test_example_of_ones_own_method_learns_and_has_variants() -> None:
    import own_method

    assert own_method.main() > 0.7
    assert own_method.main("margin@gumbel=0.5") > 0.7


@pytest.mark.usefixtures("examples")
def test_contrastive_example_chooses_fewer_broken_pairs() -> None:
    import contrastive

    uniform, _ = contrastive.main("uniform", epochs=8)
    jest, _ = contrastive.main("jest", epochs=8)
    assert 0.28 < uniform < 0.38
    assert jest < 0.5 * uniform


def test_the_methods_page_lists_every_variant_and_its_code_runs() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `@([a-z-]+)` \|", page, re.MULTILINE)) == set(MODIFIERS)
    code = page.partition("# mine.py\n")[2].partition("\nIt is compared")[0]
    names: dict[str, Any] = {}
    try:
        exec(textwrap.dedent(code), names)
        log_probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]).log()
        evidence = Evidence(
            ids_B=torch.arange(2), targets_B=torch.tensor([0, 1]), log_probs_BC=log_probs
        )
        found = names["margin"].score(evidence)
        assert torch.allclose(found, torch.tensor([0.2 / 0.7, 0.7 / 0.2]).log())
    finally:
        METHODS.pop("margin", None)


def test_the_files_that_contributing_names_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = [ROOT / room for room in ("src", "tests", "docs", "examples")]
    known = [f"/{path.relative_to(ROOT)}" for room in rooms for path in room.rglob("*")]
    for name in re.findall(r"`([\w/.]+(?:\.py|\.html|/))`", text):
        assert any(path.endswith(f"/{name.rstrip('/')}") for path in known), name
    for registry, file in re.findall(r"`([A-Z_]+)` (?:in|of) `([\w/.]+)`", text):
        paths = [ROOT / path[1:] for path in known if path.endswith(f"/{file}")]
        assert any(re.search(rf"^{registry}\b", path.read_text(), re.M) for path in paths), registry
