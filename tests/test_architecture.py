"""Imports only point down, and siblings are blind to one another (the README draws the floors)."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "groundup"

# From the ground up; on a floor marked True, neighbours must not import one another.
FLOORS: list[tuple[bool, set[str]]] = [
    (True, {"errors", "seeds", "fields", "versions"}),
    (True, {"shape", "sections", "kernels"}),
    (True, {"config"}),
    (True, {"decode"}),
    (True, {"text", "data", "model", "optim", "presets"}),
    (True, {"checkpoint"}),
    (True, {"preparation", "training", "evaluation", "generation", "report", "exchange", "tracking"}),
    (
        False,
        {
            "planning",
            "settle",
            "moving",
            "keeping",
            "examining",
            "recovery",
            "telling",
            "troubles",
            "build",
            "runs",
            "tuning",
            "halving",
            "importing",
            "layers",
            "obtaining",
            "beginning",
            "api",
            "loading",
            "harness",
            "facts",
            "assessing",
            "quickstart",
            "verify",
            "why",
            "comparing",
            "doctor",
            "exporting",
            "pushing",
        },
    ),
    (True, {"cli", "serve", "space"}),
]
ROOT = {"__init__", "__main__"}  # the package's face: may name anything, lazily


def units() -> list[str]:
    found = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")}
    return sorted(found - ROOT)


def floor_of(unit: str) -> int:
    return next(i for i, (_, names) in enumerate(FLOORS) if unit in names)


def imported_units(tree: ast.AST) -> set[str]:
    """Units of groundup that a module imports, anywhere in it."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that a reader sees where a name lives"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name.split(".")[0] == "groundup"]
    return {p[1] for p in parts if len(p) > 1 and p[1] != "__version__"}


def violations(unit: str, tree: ast.AST) -> list[str]:
    apart, _ = FLOORS[floor_of(unit)]
    found = []
    for other in imported_units(tree) - {unit}:
        if floor_of(other) > floor_of(unit):
            found.append(f"{unit} imports {other}, which is above it")
        elif floor_of(other) == floor_of(unit) and apart:
            found.append(f"{unit} imports {other}, its sibling")
    return found


def test_every_unit_has_a_floor():
    assert set(units()) <= set().union(*(names for _, names in FLOORS))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    unit = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if unit not in ROOT:
        assert violations(unit, ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("model", "from groundup.generation.engine import stream"),
        ("training", "import groundup.evaluation.loss"),
        ("errors", "def f():\n    from groundup.config import Config"),
        ("text", "from groundup import data"),
    ],
)
def test_a_planted_bad_import_is_found(unit, line):
    assert violations(unit, ast.parse(line))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is longer than a screen"


TORCH_FREE = {
    "errors",
    "seeds",
    "versions",
    "config",
    "shape",
    "sections",
    "decode",
    "presets",
    "text",
    "data",
    "layers",
    "preparation",
    "report",
    "tracking",
    "comparing",
}
TORCH_FREE_FILES = {
    ("kernels", "chunks.py"),
    ("checkpoint", "history.py"),
    ("planning", "plan.py"),
    ("planning", "cluster.py"),
    ("planning", "gpus.py"),
    ("planning", "failures.py"),
    ("planning", "cluster_words.py"),
    ("planning", "words.py"),
    ("planning", "choices.py"),
    ("exchange", "architectures.py"),
    ("exchange", "vocabulary.py"),
    ("exchange", "request.py"),
    ("exchange", "place.py"),
    ("exchange", "card.py"),
    ("exchange", "wheel.py"),
}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_ground_needs_no_torch(path):
    unit = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if (
        unit in TORCH_FREE or path.parts[-2:] in TORCH_FREE_FILES
    ) and path.name != "torch_dataset.py":  # which is loaded when first asked for
        modules = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert "torch" not in modules
