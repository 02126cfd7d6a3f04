"""Output in a notebook's cells, with a stand-in for the kernel's display."""

import sys
from types import SimpleNamespace

import pytest

from groundup.config.sections import TrainConfig
from groundup.ui import notebook
from groundup.ui.notebook import CellOutput, html_table, in_notebook
from groundup.ui.progress import count_progress, reporting
from groundup.ui.watch import watching_call
from groundup.utils.progress import StepInfo


@pytest.fixture
def cell(monkeypatch):
    """What a cell of a notebook shows: one list per output, with all that was drawn in it."""
    outputs: list[list[dict]] = []

    def display(data, *, raw, display_id):
        assert raw
        assert display_id
        outputs.append([data])
        return SimpleNamespace(update=lambda data, raw: outputs[-1].append(data))

    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(notebook, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr("groundup.ui.progress.DELAY_SECONDS", 0.0)
    return outputs


def step(n: int, of: int) -> StepInfo:
    return StepInfo(
        step=n, tokens=64 * n, cursor=n, elapsed=float(n), loss=5 - n / of, grad_norm=1.0, lr=1e-3, dt=1.0,
        tokens_per_s=64.0, fraction=n / of, applied=True, finished=n == of, stopping=False, context=16,
    )  # fmt: skip


def test_a_terminal_or_a_script_is_no_notebook(monkeypatch):
    assert not in_notebook()
    for shell in (None, SimpleNamespace(config={}), SimpleNamespace()):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert not in_notebook()


def test_a_run_is_a_panel_that_is_drawn_again_in_its_place(cell, capsys):
    with watching_call("<b>data", TrainConfig(max_steps=4)) as display:
        display.message("give --out, \x1b[31m")
        assert cell == []
        for n in range(1, 5):
            display.step(step(n, 4))
        display.evaluation(step=4, train_loss=4.1, val_loss=4.25, bits_per_byte=2.5)
        display.sample("a <script>\x1b[2J sample")
    (drawn,) = cell
    assert len(drawn) == 5  # every step, and the end
    for data in drawn:
        assert not {"\x1b", "\x07"} & {*data["text/html"], *data["text/plain"]}
        assert "<script>" not in data["text/html"]
    last = drawn[-1]
    assert last["text/html"].startswith("<pre")
    assert "&lt;b&gt;data" in last["text/html"]
    assert "color: #" in last["text/html"]
    assert "class=" not in last["text/html"], "styles are inline, as a saved notebook has no sheet of them"
    assert "step 4 of 4" in last["text/plain"]
    assert "4.2500" in last["text/plain"]
    assert capsys.readouterr().out == "give out=, \\x1b[31m\n"


def test_drawings_are_a_second_apart(cell, monkeypatch):
    clock = iter([0.0, 0.0, 0.0, 0.5, 1.5, 1.5])
    monkeypatch.setattr(notebook, "REDRAW_SECONDS", 1.0)
    monkeypatch.setattr(notebook.time, "monotonic", lambda: next(clock))
    output = CellOutput()
    for text in ("one", "skipped", "two"):
        output.draw(lambda text=text: (text, text))
    assert [data["text/plain"] for data in cell[0]] == ["one", "two"]


def test_bytes_and_counts_are_bars(cell, capsys):
    with reporting(True) as reporter:
        reporter.message("tokenizer char; --overwrite chooses again")
        reporter.phase("encoding <x>", 4_000_000)
        reporter(1_000_000)
    with count_progress() as start:
        start("val loss")(3, 12)
    assert capsys.readouterr().out == "tokenizer char; overwrite=True chooses again\n"
    (encoding, *_), (counting, *_) = cell
    assert encoding["text/plain"] == "encoding <x> 1.0 MB (25%)"
    assert (
        encoding["text/html"] == '<progress value="1000000" max="4000000"></progress> encoding &lt;x&gt; 1.0 MB (25%)'
    )
    assert counting["text/plain"] == "val loss 3 of 12 (25%)"
    assert [output[-1]["text/plain"] for output in cell] == ["encoding <x>: done", "val loss: done"]


def test_cells_of_a_table_are_escaped():
    table = html_table([("a<b", "\x1b1")], header=("", "run & all"))
    assert "a&lt;b" in table
    assert "run &amp; all" in table
    assert "\\x1b1" in table
