"""What groundup needs of others: bounds, exact versions that belong together, and their licences."""

import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [
    requirement
    for line in [*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values())]
    if (requirement := Requirement(line)).name != "groundup"
]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
CONSTRAINTS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
OURS = {"py.typed", "cpu.cpp", "decode.cpp"}  # of the package, besides modules of Python


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_every_requirement_has_an_upper_bound_and_an_exact_version(requirement):
    assert any(part.operator == "<" for part in requirement.specifier), "a version that does not exist yet may break it"
    if requirement.name != "triton":  # each torch requires exactly one
        assert requirement.specifier.contains(CONSTRAINTS[canonicalize_name(requirement.name)], prereleases=True)


def test_what_the_requirements_need_has_exact_versions_too_and_is_installed_in_them():
    todo, seen = [(requirement, frozenset(requirement.extras)) for requirement in DIRECT], set()
    while todo:
        requirement, extras = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen or name == "triton":
            continue
        seen.add((name, extras))
        assert name in CONSTRAINTS, "pip install --dry-run --constraint constraints.txt says which version"
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        assert installed.version.partition("+")[0] == CONSTRAINTS[name]
        for inner in map(Requirement, installed.requires or ()):
            marker, chosen = inner.marker, ({"extra": extra} for extra in ("", *extras))
            if marker is None or any(marker.evaluate(environment) for environment in chosen):
                todo.append((inner, frozenset(inner.extras)))
                assert inner.specifier.contains(CONSTRAINTS[canonicalize_name(inner.name)], prereleases=True), name


def test_constraints_are_exact_sorted_and_name_no_index():
    assert sorted(LINES, key=str.lower) == LINES
    assert len(CONSTRAINTS) == len(LINES)
    assert not [line for line in LINES if "://" in line or line.startswith("-") or line.count("==") != 1]


def test_every_file_of_others_in_the_package_is_in_the_notice():
    notice, package = (ROOT / "NOTICE").read_text(encoding="utf-8"), ROOT / "src/groundup"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    others = [path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".py" and path.name not in OURS]
    assert sorted(others) == [line for line in notice.splitlines() if line.startswith("src/")]
