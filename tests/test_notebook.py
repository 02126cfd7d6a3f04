"""The example notebook runs from its first cell to its last, in a Jupyter kernel."""

import re
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "groundup.ipynb"

# The notebook's settings, made small enough for a test.
SMALL = {"BLOCK": 32, "BATCH": 16, "EPOCHS": 3, "LAYERS": 1, "HEADS": 2, "WIDTH": 32, "LEARNING_RATE": 0.01}


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_of(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def text_of(output) -> str:
    return output.get("text", "") or output.get("data", {}).get("text/plain", "")


def test_it_is_valid_and_small_and_shows_what_its_code_prints(notebook):
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 150_000
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "of one run, from top to bottom"
    for cell in cells:
        shows = re.search(r"^\s*(print|plt\.show)\(", cell.source, re.MULTILINE)
        assert bool(cell.outputs) == bool(shows), cell.source
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {"stream", "display_data"}
    assert {output.name for cell in cells for output in cell.outputs if output.output_type == "stream"} == {"stdout"}


def test_its_outputs_say_nothing_about_the_machine_that_made_them(notebook):
    shown = NOTEBOOK.read_text(encoding="utf-8")
    home = {
        str(Path.home()),
        str(NOTEBOOK.parents[1]),
        sys.prefix,
        "/home/",
        "/Users/",
        "/root/",
        "/tmp/",
        "site-packages",
    }
    assert not [name for name in home if name in shown and name != "/"]


def test_the_saved_run_has_learnt_and_has_a_panel(notebook):
    shown = "".join(text_of(output) for cell in notebook.cells for output in cell.get("outputs", []))
    own, run, loaded = map(float, re.findall(r"held-out loss ([\d.]+)", shown))
    assert max(own, run, loaded) < 2.5
    (panel,) = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert panel.startswith("<pre")
    assert "100%" in panel


def test_every_step_is_explained_and_short(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert all(len(source.splitlines()) <= 40 for source in code_of(notebook))
    # Only the installation and the settings share one text.
    bare = [i for i, kind in enumerate(kinds) if kind == "code" and kinds[i - 1] == "code"]
    assert len(bare) <= 1


def test_it_fits_a_t4(notebook):
    assert notebook.metadata.accelerator == "GPU"
    assert notebook.metadata.colab.gpuType == "T4"
    assert not re.search("bf16|bfloat16", "".join(code_of(notebook)))  # a T4 only emulates it


def test_it_installs_only_if_needed(notebook):
    (source,) = [source for source in code_of(notebook) if "%pip" in source]
    assert re.search(r"\n    %pip install '\{clone\}\[plot\]'$", source), "from the clone: no index has the package"
    assert source.index("find_spec") < source.index("%pip")


@pytest.fixture
def execute(tmp_path, monkeypatch, sentences):
    """Run all cells of a notebook in one kernel with small settings; returns their output."""
    text = tmp_path / "text.txt"
    text.write_text(sentences(900), encoding="utf-8")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the numbers below are those of a CPU

    def call(notebook, **settings: object) -> str:
        for name, value in {"SOURCE": text, **SMALL, **settings}.items():
            monkeypatch.setenv(f"NOTEBOOK_{name}", str(value))
        client = NotebookClient(deepcopy(notebook), timeout=300, resources={"metadata": {"path": str(tmp_path)}})
        return "".join(text_of(out) for cell in client.execute().cells for out in cell.get("outputs", []))

    return call


@pytest.mark.slow
def test_it_runs_and_the_model_learns(notebook, execute):
    printed = execute(notebook)
    before, chance = map(float, re.search(r"before training ([\d.]+), ln\(vocabulary\) ([\d.]+)", printed).groups())
    own, run, loaded = map(float, re.findall(r"held-out loss ([\d.]+)", printed))
    assert before == pytest.approx(chance, abs=0.1)
    assert max(own, run, loaded) < before - 1
    assert loaded == pytest.approx(run, abs=0.03)  # the same model, evaluated on other windows
    assert "True held-out loss" in printed
    assert "\nTrue\n" in printed  # the weights survive a PyTorch file
    assert re.search(r"step +0 of \d+ \| loss", printed)
    assert re.search(r"step (\d+) of \1 .*100%", printed)  # groundup's panel, at its end
    assert "pip" not in printed


@pytest.mark.long
def test_all_cells_run_again_after_settings_change(notebook, execute, tmp_path, sentences):
    greek = sentences(300).lower().translate(str.maketrans("abcdefghilmnorstuwx.", "αβξδεφγηιλμνορστυωχ·"))
    other = tmp_path / "other.txt"
    other.write_text(greek, encoding="utf-8")
    twice = deepcopy(notebook)
    change = nbformat.v4.new_code_cell(f"os.environ |= {{'NOTEBOOK_SOURCE': {str(other)!r}, 'NOTEBOOK_WIDTH': '16'}}")
    again = [nbformat.from_dict({**cell, "id": f"again-{cell.id}"}) for cell in notebook.cells]
    twice.cells += [change, *again]
    printed = execute(twice, EPOCHS=1)

    assert len(re.findall(r"held-out loss", printed)) == 2 * 3
    written = printed.rpartition("\nTrue\n")[2]
    assert written.strip()
    assert set(written) <= set(greek), "the second model knows the second text alone"
