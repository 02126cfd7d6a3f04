"""Package layering: imports point down, packages of one floor are independent, files stay short (docs/guide.md)."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import groundup

SOURCE = Path(__file__).parents[1] / "src" / "groundup"
FILES = sorted(SOURCE.rglob("*.py"))

# Bottom to top. A package imports only from floors below its own; packages of one floor never import one another.
FLOORS: list[set[str]] = [
    {"errors"},
    {"utils"},
    {"kernels", "config", "tokenizers", "sources", "distributed"},
    {"data", "model", "optim", "tracking", "ui"},
    {"preprocess", "training", "evaluation", "generation", "checkpoint", "planning"},
    {"run", "interop", "comparison", "diagnostics", "report"},
    {"first_model", "server", "harness"},
    {"api", "cli", "space"},
]
FLOOR = {unit: number for number, units in enumerate(FLOORS) for unit in units}
ROOT_MODULES = {"__init__.py", "__main__.py", "api.py", "errors.py"}
ENTRY_POINTS = {"__init__", "__main__"}  # they name the packages above lazily

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def unit_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("groundup", *parts)).removesuffix(".__init__")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(tree: ast.AST) -> set[str]:
    """Dotted names under groundup that a module imports, anywhere in it."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that a reader sees where a name lives"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name for name in names if name.startswith("groundup.") and name != "groundup.__version__"}


def violations(unit: str, tree: ast.AST) -> list[str]:
    """Imports that point up or sideways."""
    found = []
    for other in sorted({name.split(".")[1] for name in imported_names(tree)} - {unit}):
        if FLOOR[other] > FLOOR[unit]:
            found.append(f"{unit} imports {other}, which is above it")
        elif FLOOR[other] == FLOOR[unit]:
            found.append(f"{unit} imports {other}, its sibling")
    return found


def circle(imports: dict[str, set[str]]) -> list[str]:
    """A cycle among modules, given the imports of each; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def imports_by_module() -> dict[str, set[str]]:
    modules = {module_of(path): path for path in FILES if unit_of(path) not in ENTRY_POINTS}
    found = {}
    for module, path in modules.items():
        names = imported_names(parse(path))
        found[module] = {n if n in modules else n.rpartition(".")[0] for n in names} & modules.keys() - {module}
    return found


def test_only_entry_points_are_loose_at_the_root():
    assert {path.name for path in SOURCE.glob("*.py")} == ROOT_MODULES


def test_every_package_has_one_floor():
    assert {unit_of(path) for path in FILES} - ENTRY_POINTS <= FLOOR.keys()
    assert sum(map(len, FLOORS)) == len(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    if unit_of(path) not in ENTRY_POINTS:
        assert violations(unit_of(path), parse(path)) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle(imports_by_module()) == []


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("model", "from groundup.generation.completion import stream"),
        ("training", "import groundup.evaluation.loss"),
        ("errors", "def f():\n    from groundup.config.schema import Config"),
        ("tokenizers", "from groundup import data"),
        ("run", "from groundup.comparison.table import compare"),
        ("cli", "from groundup.api import train"),
    ],
)
def test_a_planted_import_up_or_sideways_is_found(unit, line):
    assert violations(unit, ast.parse(line))


def test_a_planted_circle_is_found():
    imports = imports_by_module()
    assert "groundup.model.blocks" in imports["groundup.model.gpt"]
    imports["groundup.model.blocks"].add("groundup.model.gpt")
    assert {"groundup.model.blocks", "groundup.model.gpt"} <= set(circle(imports))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_is_named_like_a_public_function(path):
    # Importing it would shadow the function of the package.
    functions = {name for name in groundup.__all__ if name[0].islower() and name != "data"}
    assert unit_of(path) not in functions


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is longer than a screen"


# Ways around the streams that escape what a terminal would obey, and the modules that may use them: the streams
# themselves, for text in a pipe, for bars of downloads.
WAYS_AROUND = {
    "rich.console.Console": {"ui/console.py"},
    "rich.get_console": set(),
    "rich.print": set(),
    "unescaped": {
        *("ui/streams.py", "ui/console.py", "cli/generate.py", "interop/hf.py", "interop/push.py"),
        "cli/line_editor.py",  # prompt_toolkit shows control characters as ^A
    },
    "rich_proxied_file": {"ui/streams.py"},
    "__stdout__": set(),
    "__stderr__": set(),
    "os.write": {"cli/interrupts.py"},  # a constant
    "sys.stdout.buffer": set(),
    "sys.stderr.buffer": set(),
}


def ways_around(tree: ast.AST) -> set[str]:
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            used |= {name for alias in node.names for name in (alias.name, f"{node.module}.{alias.name}")}
        elif isinstance(node, ast.Attribute):
            used |= {node.attr, ast.unparse(node)}
        elif isinstance(node, ast.Name | ast.FunctionDef):
            used.add(node.id if isinstance(node, ast.Name) else node.name)
    return used & WAYS_AROUND.keys()


def test_text_reaches_the_terminal_escaped():
    found = {(name_of(path), way) for path in FILES for way in ways_around(parse(path))}
    assert {(file, way) for file, way in found if file not in WAYS_AROUND[way]} == set()


@pytest.mark.parametrize("line", ["from rich.console import Console", "sys.__stderr__.write(x)", "os.write(1, x)"])
def test_a_planted_way_around_is_found(line):
    assert ways_around(ast.parse(line))


def test_python_processes_import_nothing_from_the_current_folder():
    commands = [node for path in FILES for node in ast.walk(parse(path)) if isinstance(node, ast.List)]
    ours = [
        words for node in commands if (words := [ast.unparse(word) for word in node.elts])[:1] == ["sys.executable"]
    ]
    assert {words[1] for words in ours} == {"'-P'"}
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    uses = sum(text.count("sys.executable") - text.count("Path(sys.executable)") for text in texts)  # a path is shown
    assert uses == len(ours), "a command that is made otherwise"


def test_links_in_a_circle_are_an_oserror_everywhere():
    own = {"utils/files.py", "utils/extras.py", "space/app.py"}  # the function itself, and paths of this package
    found = {name_of(path) for path in FILES if ".resolve()" in path.read_text(encoding="utf-8")}
    assert found == own, "use utils.files.resolved"


def test_commands_print_json_that_is_printable():
    for path in (SOURCE / "cli").glob("*.py"):
        assert "json.dumps" not in path.read_text(encoding="utf-8"), f"{path.name}: print `json_line` instead"


TORCH_FREE = {"errors", "config", "tokenizers", "sources", "data", "preprocess", "ui", "tracking", "comparison"}
TORCH_FREE_FILES = {
    "utils/files.py",
    "utils/hashing.py",
    "utils/hub_errors.py",
    "utils/lock.py",
    "utils/progress.py",
    "utils/system.py",
    "kernels/thresholds.py",
    "checkpoint/log.py",
    "planning/plan.py",
    "planning/gpus.py",
    "planning/report.py",
    "planning/warnings.py",
    "planning/choice.py",
    "first_model/existing.py",
    "first_model/preparation.py",
    "first_model/recipe.py",
    "first_model/workflow.py",
    "run/compose.py",
    "interop/hf_architectures.py",
    "interop/import_checks.py",
    "interop/output.py",
    "interop/model_card.py",
    "interop/wheel.py",
}
LOADED_LATER = {"data/torch_dataset.py"}  # imported on first use


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_config_and_text_need_no_torch(path):
    name = name_of(path)
    if (unit_of(path) in TORCH_FREE or name in TORCH_FREE_FILES) and name not in LOADED_LATER:
        modules = {
            name.split(".")[0]
            for node in ast.walk(parse(path))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert "torch" not in modules


def test_the_torch_free_files_exist():
    assert {name for name in TORCH_FREE_FILES | LOADED_LATER if not (SOURCE / name).exists()} == set()
