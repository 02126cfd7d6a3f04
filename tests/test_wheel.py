"""The wheel: built, installed elsewhere, run."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which would point to a checkout
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # Without isolation: the build backend is among the development dependencies, and nothing is downloaded.
    run(sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--no-build-isolation", "-w", out, cwd=out)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_vocabulary_the_licences_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("groundup/tokenizers/vocab/") for name in names)
    assert "groundup/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert {name.split("/")[0] for name in names} == {
        "groundup",
        next(n for n in names if "dist-info" in n).split("/")[0],
    }


@pytest.mark.slow
def test_the_wheel_works_without_a_checkout(wheel, tmp_path):
    venv.create(tmp_path / "env")
    python = next((tmp_path / "env").glob("*/python"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # Its dependencies come from this environment: a .pth file adds the folder, but not what that folder's own add.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    where = run(python, "-c", "import groundup; print(groundup.__file__)", cwd=tmp_path)
    assert where.startswith(site)
    (tmp_path / "book.txt").write_text("A line of text, and another one.\n" * 300)
    groundup = [python, "-m", "groundup"]
    run(*groundup, "prepare", "book.txt", "--out", "data", "--tokenizer", "gpt2", cwd=tmp_path)
    options = ["--train.max_steps", "2", "--evaluate.sample_tokens", "0", "--model.block_size", "16"]
    run(*groundup, "train", "gpt2-nano", "--data", "data", "--out", "run", *options, cwd=tmp_path)
    text = run(*groundup, "generate", "run", "--prompt", "A line", "--max_tokens", "5", cwd=tmp_path)
    assert text.startswith("A line")
