"""Live panel of a training run on a terminal: loss chart, progress bar, numbers and the newest sample.

A call only stores numbers; all drawing is done by rich's own thread. It is done seldom, since a drawing holds Python's
interpreter lock for milliseconds, and steps of small models wait for it.
"""

import io
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from groundup.ui.chart import Curve, Series, braille_chart
from groundup.ui.console import Console, can_redraw, print_line
from groundup.ui.display import Display, time_left
from groundup.ui.format import human_count, human_step, human_time, single_line, visible
from groundup.ui.notebook import HEIGHT, WIDTH, CellOutput, as_html
from groundup.utils.progress import StepInfo

REFRESHES_PER_SECOND = 2
MAX_DECAY = 0.95  # of the running mean of the loss: an average over about 20 steps, and at first over a tenth of them
MAX_SAMPLE_CHARACTERS = 2000  # more never fits into those lines
MIN_CHART_LINES, MAX_CHART_LINES = 4, 18
COLUMNS, LABELS = (22, 22, 16, 16), (13, 11, 5, 5)  # cells of numbers and their labels, on a terminal of 80
OTHER_LINES = 7  # around the chart: frame 2, progress 1, numbers 3, and the line of the cursor
LOSS_STYLE, TRAIN_STYLE, VAL_STYLE = "cyan", "bold cyan", "bold yellow"
TRAIN_MARK, VAL_MARK = "○", "●"  # of evaluations, also without colours


def can_show_panel(console: Console) -> bool:
    """Whether `console` is a terminal that can redraw lines and has braille; otherwise print plain lines."""
    return can_redraw(console) and console.encoding.startswith("utf")


class RunningMean:
    """Exponential moving average whose memory grows with the number of values: a long one would lag in a short run."""

    def __init__(self, max_decay: float = MAX_DECAY) -> None:
        self.value, self._max_decay, self._n = math.nan, max_decay, 0

    def add(self, value: float) -> float:
        """Add a value and return the mean; values that are not finite are ignored."""
        if math.isfinite(value):
            decay = min(self._max_decay, self._n / (self._n + 10))
            self.value = value if not self._n else decay * self.value + (1 - decay) * value
            self._n += 1
        return self.value


class Panel(Display):
    """Live display of one training run; a context manager. The last state stays on the screen.

    `total_steps` and `max_seconds` are the run length, each None if it is not given so. No text is read as rich's
    markup or reaches the terminal as a control character. Check `can_show_panel` first.
    """

    def __init__(
        self, title: str, total_steps: int | None, max_seconds: float | None, console: Console | None = None
    ) -> None:
        self._title, self._total_steps, self._max_seconds = title, total_steps, max_seconds
        self._console = console or Console()
        self._losses, self._train, self._val, self._loss = Curve(), Curve(), Curve(), RunningMean()
        self._first: StepInfo | None = None
        self._now: StepInfo | None = None
        self._evaluation: tuple[float | None, float | None, float | None] = None, None, None  # train, val, bits/byte
        self._best = math.inf
        self._sample, self._entered = "", False
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=REFRESHES_PER_SECOND)

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @override
    def begin(
        self,
        total_steps: int | None,
        losses: Sequence[tuple[int, float]] = (),
        evaluations: Sequence[tuple[int, float | None, float]] = (),
    ) -> None:
        self._total_steps = total_steps
        for step, loss in losses:
            self._losses.add(step, self._loss.add(loss))
        for step, train_loss, val_loss in evaluations:
            self.evaluation(step=step, train_loss=train_loss, val_loss=val_loss, bits_per_byte=None)

    @override
    def step(self, info: StepInfo) -> None:
        self._losses.add(info.step, self._loss.add(info.loss))
        self._now, self._first = info, self._first or info
        if self._entered and not self._live.is_started:  # not earlier: a mistake may end the run before it begins
            self._live.start(refresh=True)

    @override
    def evaluation(self, *, step: int, train_loss: float | None, val_loss: float, bits_per_byte: float | None) -> None:
        self._val.add(step, val_loss)
        self._train.add(step, math.nan if train_loss is None else train_loss)
        self._best = min(self._best, val_loss)
        self._evaluation = train_loss, val_loss, bits_per_byte

    @override
    def sample(self, text: str) -> None:
        lines = visible(text[:MAX_SAMPLE_CHARACTERS]).split("\n")
        self._sample = "\n".join(line for line in lines if line.strip())  # few lines fit: no blank ones

    @override
    def message(self, text: str) -> None:
        print_line(single_line(text), self._console)

    def _render(self) -> RenderableType:
        return Frame(self._body(), title=Text(visible(self._title), "bold"), title_align="left", border_style="dim")

    def _body(self) -> RenderableType:
        first, now = self._first, self._now
        if first is None or now is None:
            return Text("waiting for the first step", style="dim")
        width = self._console.width - 4  # the frame, and the space inside it
        sample = self._sample_lines(width)
        height = max(MIN_CHART_LINES, min(MAX_CHART_LINES, self._console.height - OTHER_LINES - len(sample)))
        series = [
            Series(list(self._losses.points), LOSS_STYLE),  # copies: training adds points while this is drawn
            Series(list(self._train.points), TRAIN_STYLE, joined=False, marker=TRAIN_MARK),
            Series(list(self._val.points), VAL_STYLE, joined=False, marker=VAL_MARK),
        ]
        steps = [first.step, now.step, *(step for each in series for step, _ in each.points[:1])]
        chart = braille_chart(series, width, height, x_range=(min(steps), max(steps)))
        return Group(self._header(first, now), chart, self._numbers(now), *sample)

    def _header(self, first: StepInfo, now: StepInfo) -> Table:
        total = "" if self._total_steps is None else f" of {self._total_steps:,}"
        bar = ProgressBar(total=1, completed=now.progress, complete_style=LOSS_STYLE, finished_style="green")
        grid = Table.grid(padding=(0, 1), expand=True)
        for ratio in (None, 1, None):
            grid.add_column(ratio=ratio, no_wrap=ratio is None)
        grid.add_row(f"step {now.step:,}{total}", bar, f"{now.progress:4.0%}  {self._time(first, now)}")
        return grid

    def _time(self, first: StepInfo, now: StepInfo) -> str:
        if now.progress >= 1:
            return f"took {human_time(now.elapsed)}"
        limits = [] if (left := time_left(first, now)) is None else [left]
        if self._max_seconds is not None:
            limits.append(max(0.0, self._max_seconds - now.elapsed))
        return f"{human_time(min(limits))} left" if limits else f"after {human_time(now.elapsed)}"

    def _numbers(self, now: StepInfo) -> Table:
        """Losses of the last evaluation, then the last step, as many columns as there is room for complete numbers."""
        train, val, bits = self._evaluation
        gap = None if val is None or train is None else val - train
        cells = (
            (
                (f"{TRAIN_MARK} train loss", _or_dash(train, ".4f"), TRAIN_STYLE),
                (f"{VAL_MARK} val loss", _or_dash(val, ".4f"), VAL_STYLE),
                ("gap", _or_dash(gap, "+.4f"), ""),
                ("best", _or_dash(self._best if math.isfinite(self._best) else None, ".4f"), ""),
            ),
            (
                ("─ loss now", f"{self._loss.value:.4f}", LOSS_STYLE),
                ("bits/byte", _or_dash(bits, ".3f"), ""),
                ("norm", f"{now.grad_norm:.3g}", ""),
                ("lr", f"{now.lr:.1e}", ""),
            ),
            (
                ("tokens", human_count(now.tokens), ""),
                ("tokens/s", human_count(round(now.tokens_per_s)), ""),
                ("step", human_step(now.dt), ""),
                ("", "", ""),
            ),
        )
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        shown = max(1, min(len(COLUMNS), sum(1 for end in accumulate(COLUMNS) if end <= self._console.width - 4)))
        for ratio in COLUMNS[:shown]:
            grid.add_column(ratio=ratio, no_wrap=True)
        for row in cells:
            grid.add_row(*(_number(*cell, LABELS[i]) for i, cell in enumerate(row[:shown])))
        return grid

    def _sample_lines(self, width: int) -> list[RenderableType]:
        if not self._sample:
            return []
        lines = Text(self._sample, style="italic").wrap(self._console, max(1, width))
        kept = lines[: max(1, self._console.height // 6)]  # one line in six of the terminal
        if len(kept) < len(lines):
            kept[-1].truncate(max(1, width - 1))
            kept[-1].append("…")
        return [Rule(Text("sample", style="dim"), style="dim", align="left"), *kept]


class NotebookPanel(Panel):
    """The panel in an output of a notebook's cell; messages are printed above and below it."""

    def __init__(self, title: str, total_steps: int | None, max_seconds: float | None) -> None:
        super().__init__(title, total_steps, max_seconds, Console(file=io.StringIO(), width=WIDTH, height=HEIGHT))
        self._output = CellOutput()

    @override
    def _render(self) -> RenderableType:
        # Without a frame: in browsers' fonts braille is wider than letters, so its right edge would not be straight.
        return Group(Text(visible(self._title), "bold"), self._body())

    @override
    def __enter__(self) -> Self:
        return self  # rich's own live display is not started

    @override
    def __exit__(self, *_: object) -> None:
        if self._now is not None:
            self._output.draw(lambda: as_html(self._render()), now=True)

    @override
    def step(self, info: StepInfo) -> None:
        super().step(info)
        self._output.draw(lambda: as_html(self._render()))

    @override
    def message(self, text: str) -> None:
        print(single_line(text), flush=True)


def _number(label: str, value: str, style: str, label_width: int) -> Text:
    return Text.assemble((f"{label:<{label_width}}", style or "dim"), value)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
