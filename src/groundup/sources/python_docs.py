"""The documentation that comes with every Python as a corpus: about 2.4 MB of English and code.

It holds the topics of `help()`, the docstrings of the standard library (its files are parsed, never imported), and
those of the modules written in C. The version of the running Python decides the text.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import ExtensionFileLoader
from itertools import chain
from pathlib import Path
from types import ModuleType

from groundup.errors import DataError

# Folders of the standard library that document nothing a user calls, or that are not part of it.
SKIPPED_FOLDERS = {
    *("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"),
    *("pydoc_data", "__phello__", "__pycache__"),
}

# C modules whose import does something: `_tkinter` wants a display, `readline` writes to the terminal.
SKIPPED_MODULES = {"_tkinter", "readline"}

MIN_UNIQUE_CHARS = 60  # shorter paragraphs, such as "Arguments:", may be repeated


@cache
def python_docs() -> tuple[str, ...]:
    """The texts, one per topic or docstring, in an order that depends only on the Python version.

    A text or paragraph that occurs in several of them is kept once: the topics of `help()` quote one another at length,
    and repetition across the split would make memorization look like understanding.

    Raises DataError if this Python has no documentation.
    """
    library = Path(sysconfig.get_path("stdlib"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated modules and old escapes are of no interest here
        found = chain(_topics(), _parsed_docstrings(library), _c_docstrings())
        valid = (text for text in found if text and text.strip() and not re.search("[\ud800-\udfff]", text))
        texts = tuple(dict.fromkeys(_without_repeats(valid)))  # a set that keeps order
    if not texts:
        raise DataError(f"python-docs: this Python has no documentation in {library}; give a text of your own")
    return texts


def _without_repeats(texts: Iterable[str]) -> Iterator[str]:
    """The texts without the paragraphs of earlier ones."""
    seen: set[str] = set()
    for text in texts:
        paragraphs = re.split(r"\n\s*\n", text)
        kept = [p for p in paragraphs if len(p) < MIN_UNIQUE_CHARS or p.strip() not in seen]
        seen.update(p.strip() for p in paragraphs)
        if (rest := "\n\n".join(kept)).strip():
            yield rest


def _topics() -> Iterator[str]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions leave it out
        return
    yield from (topics[name] for name in sorted(topics))


def _parsed_docstrings(library: Path) -> Iterator[str | None]:
    for path in sorted(library.rglob("*.py")):
        if SKIPPED_FOLDERS.intersection(path.relative_to(library).parts[:-1]):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in (tree, *_statements(tree)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node. Expressions, most of a tree, define nothing and are skipped."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                yield child
                yield from _statements(child)


def _c_docstrings() -> Iterator[str | None]:
    for name in sorted(sys.stdlib_module_names - SKIPPED_MODULES):
        if name.startswith(("xx", "_xx")) or "test" in name:
            continue
        spec = importlib.util.find_spec(name)
        if name not in sys.builtin_module_names and not (spec and isinstance(spec.loader, ExtensionFileLoader)):
            continue  # not written in C
        try:
            module = importlib.import_module(name)
        except Exception:  # noqa: S112  # it may need a library or device that is missing here
            continue
        yield from map(inspect.getdoc, _documented(module))


def _documented(module: ModuleType) -> Iterator[object]:
    """A C module, its functions, its classes and their members."""
    yield module
    for _, value in sorted(vars(module).items()):
        if inspect.isbuiltin(value):
            yield value
        elif inspect.isclass(value):
            yield value
            members = (member for _, member in sorted(vars(value).items()))
            yield from (each for each in members if inspect.isroutine(each) or inspect.isdatadescriptor(each))
