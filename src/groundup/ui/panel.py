"""A training run as a person watches it: a live panel on a terminal, one line a step in a pipe.

The panel is told what happens by plain method calls and imports nothing of training. A call only stores numbers; all
drawing is done by rich's own thread, a few times a second, so a run of 500 steps a second does not notice it.
"""

import math
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from groundup.ui.chart import Curve, Series, braille_chart

REFRESHES = 4  # a second
SMOOTHING = 0.95  # share of the old mean that a step keeps: about the last 20 steps are seen
SAMPLE_SHARE = 6  # the sample gets one line in six of the terminal
SAMPLE_CHARACTERS = 2000  # more never fits into those lines
CHART_LINES = (4, 18)  # at least, at most
OTHER_LINES = 7  # around the chart: frame 2, progress 1, numbers 3, and the cursor's own line
NUMBER_COLUMNS = (32, 24, 20)  # cells on an 80-column terminal, enough for the longest numbers; in proportion beyond
TRAIN_STYLE, VAL_STYLE = "cyan", "bold yellow"


def plain_line(*, step: int, loss: float, dt: float, tokens_per_s: float, grad_norm: float, lr: float) -> str:
    """One step for a log that nobody watches live; `dt` is in seconds and shown in milliseconds."""
    return (
        f"step {step} | loss {loss:.4f} | dt {1000 * dt:.1f} ms | tok/s {tokens_per_s:.0f}"
        f" | norm {grad_norm:.2f} | lr {lr:.2e}"
    )


def plain_evaluation(*, step: int, train_loss: float | None, val_loss: float, bits_per_byte: float | None) -> str:
    """One evaluation, on a line; what is None is left out."""
    train = "" if train_loss is None else f" | train loss {train_loss:.4f}"
    bits = "" if bits_per_byte is None else f" | bits/byte {bits_per_byte:.3f}"
    return f"step {step}{train} | val loss {val_loss:.4f}{bits}"


def human_time(seconds: float) -> str:
    """`2d 03h`, `1h 02m`, `2m 05s` or `9s`: the two largest units, which is what one plans by."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}h"
    if hours:
        return f"{h}h {m:02}m"
    return f"{m}m {s:02}s" if minutes else f"{s}s"


def human_count(n: float) -> str:
    """`812`, `10.1K`, `3.28M`, `1.02B`: three figures and the field's units."""
    for unit in ("", "K", "M", "B"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:,.3g}T"


def visible(text: str) -> str:
    """`text` with everything a terminal could obey, or could not show, escaped as in Python; newlines stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def can_show_panel(console: Console) -> bool:
    """Whether `console` is a terminal that can redraw lines and has braille; otherwise print plain lines."""
    return (
        console.is_terminal
        and console.file.isatty()
        and not console.is_dumb_terminal
        and console.encoding.startswith("utf")
    )


class RunningMean:
    """An exponential moving average without the pull of its arbitrary start (as in Adam, arXiv:1412.6980)."""

    def __init__(self, keep: float = SMOOTHING) -> None:
        self.value = math.nan
        self._keep = keep
        self._sum = self._weight = 0.0

    def add(self, value: float) -> float:
        """Take in a value and return the mean; a value that is not finite leaves it as it was."""
        if math.isfinite(value):
            self._sum = self._keep * self._sum + (1 - self._keep) * value
            self._weight = self._keep * self._weight + (1 - self._keep)
            self.value = self._sum / self._weight
        return self.value


class _Step(NamedTuple):
    step: int
    lr: float
    grad_norm: float
    dt: float
    tokens_per_s: float
    tokens: int
    progress: float
    elapsed: float


class _Evaluation(NamedTuple):
    train_loss: float | None = None
    val_loss: float | None = None
    bits_per_byte: float | None = None


class Panel:
    """The live display of one training run; a context manager. What it showed last stays on the screen.

    `total_steps` and `budget_s` (seconds) say what the run aims at, None where it does not. Nothing handed in is read
    as rich's markup or reaches the terminal as a control character. Ask `can_show_panel` first.
    """

    def __init__(
        self, title: str, total_steps: int | None, budget_s: float | None, console: Console | None = None
    ) -> None:
        self._title = title
        self._total_steps = total_steps
        self._budget_s = budget_s
        self._console = console or Console()
        self._train, self._val, self._loss = Curve(), Curve(), RunningMean()
        self._first: _Step | None = None
        self._now: _Step | None = None
        self._evaluation = _Evaluation()
        self._best = math.inf
        self._sample = ""
        self._entered = False
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=REFRESHES)

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(
        self,
        *,
        step: int,
        loss: float,
        lr: float,
        grad_norm: float,
        dt: float,
        tokens_per_s: float,
        tokens: int,
        progress: float,
        elapsed: float,
    ) -> None:
        """Take in one step: nats a token, seconds (`dt`, `elapsed`), tokens so far, `progress` from 0 to 1."""
        self._train.add(step, self._loss.add(loss))
        self._now = _Step(step, lr, grad_norm, dt, tokens_per_s, tokens, progress, elapsed)
        self._first = self._first or self._now
        if self._entered and not self._live.is_started:  # not earlier: a mistake may end the run before it begins
            self._live.start(refresh=True)

    def evaluation(self, *, step: int, train_loss: float | None, val_loss: float, bits_per_byte: float | None) -> None:
        """Take in one evaluation: a point of the chart, and the numbers below it."""
        self._val.add(step, val_loss)
        self._best = min(self._best, val_loss)
        self._evaluation = _Evaluation(train_loss, val_loss, bits_per_byte)

    def sample(self, text: str) -> None:
        """Show what the model writes now, in place of the last sample."""
        lines = visible(text[:SAMPLE_CHARACTERS]).split("\n")
        self._sample = "\n".join(line for line in lines if line.strip())  # room is short: no blank lines

    def message(self, text: str) -> None:
        """Print a line above the panel; it scrolls away with the rest of the terminal."""
        self._console.print(Text(visible(text)))

    def _render(self) -> RenderableType:
        title = Text(visible(self._title), style="bold")
        return Frame(self._body(), title=title, title_align="left", border_style="dim")

    def _body(self) -> RenderableType:
        first, now = self._first, self._now
        if first is None or now is None:
            return Text("waiting for the first step", style="dim")
        width = self._console.width - 4  # the frame, and the space inside it
        sample = self._sample_lines(width)
        fewest, most = CHART_LINES
        height = max(fewest, min(most, self._console.height - OTHER_LINES - len(sample)))
        series = [
            Series(list(self._train.points), TRAIN_STYLE),  # a copy: training goes on adding while this is drawn
            Series(list(self._val.points), VAL_STYLE, joined=False),
        ]
        steps = [first.step, now.step, *(step for step, _ in self._val.points)]  # an evaluation may come before step 1
        chart = braille_chart(series, width, height, x_range=(min(steps), max(steps)))
        return Group(self._header(first, now), chart, self._numbers(now), *sample)

    def _header(self, first: _Step, now: _Step) -> Table:
        total = "" if self._total_steps is None else f" of {self._total_steps:,}"
        bar = ProgressBar(total=1, completed=now.progress, complete_style=TRAIN_STYLE, finished_style="green")
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(f"step {now.step:,}{total}", bar, f"{now.progress:4.0%}  {self._time(first, now)}")
        return grid

    def _time(self, first: _Step, now: _Step) -> str:
        if now.progress >= 1:
            return f"took {human_time(now.elapsed)}"
        limits = []
        # Measured from the first step seen here: a resumed run begins in the middle, and its clock may begin anew.
        done = now.progress - first.progress
        if done > 0:
            limits.append((now.elapsed - first.elapsed) / done * (1 - now.progress))
        if self._budget_s is not None:
            limits.append(max(0.0, self._budget_s - now.elapsed))
        return f"{human_time(min(limits))} left" if limits else f"after {human_time(now.elapsed)}"

    def _numbers(self, now: _Step) -> Table:
        train, val, bits = self._evaluation
        best = f", best {self._best:.4f}" if math.isfinite(self._best) else ""
        gap = None if val is None or train is None else val - train
        grid = Table.grid(expand=True)
        for ratio in NUMBER_COLUMNS:
            grid.add_column(ratio=ratio, no_wrap=True)
        grid.add_row(
            _number("train loss", f"{self._loss.value:.4f}", 11, TRAIN_STYLE),
            _number("learning rate", f"{now.lr:.2e}", 14),
            _number("tokens/s", f"{now.tokens_per_s:,.0f}", 9),
        )
        grid.add_row(
            _number("val loss", _or_dash(val, ".4f") + best, 11, VAL_STYLE),
            _number("gradient norm", f"{now.grad_norm:.2f}", 14),
            _number("ms/step", f"{1000 * now.dt:,.1f}", 9),
        )
        grid.add_row(
            _number("bits/byte", _or_dash(bits, ".3f"), 11),
            _number("val − train", _or_dash(gap, "+.4f"), 14),
            _number("tokens", human_count(now.tokens), 9),
        )
        return grid

    def _sample_lines(self, width: int) -> list[RenderableType]:
        if not self._sample:
            return []
        lines = Text(self._sample, style="italic").wrap(self._console, max(1, width))
        kept = lines[: max(1, self._console.height // SAMPLE_SHARE)]
        if len(kept) < len(lines):
            kept[-1].truncate(max(1, width - 1))
            kept[-1].append("…")
        return [Rule(Text("sample", style="dim"), style="dim", align="left"), *kept]


def _number(label: str, value: str, label_width: int, style: str = "") -> Text:
    return Text.assemble((f"{label:<{label_width}}", style or "dim"), value)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
