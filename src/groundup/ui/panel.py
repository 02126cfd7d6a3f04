"""Live panel of a training run on a terminal: loss chart, progress bar, numbers and the newest sample.

A call only stores numbers; all drawing is done by rich's own thread, a few times per second, so a run of 500 steps per
second is not slowed.
"""

import math
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
from groundup.ui.console import Console, can_redraw
from groundup.ui.display import Display
from groundup.ui.format import human_count, human_time, single_line, visible
from groundup.utils.progress import StepInfo

REFRESHES_PER_SECOND = 4
LOSS_DECAY = 0.95  # of the running mean of the loss: an average over about 20 steps
MAX_SAMPLE_CHARACTERS = 2000  # more never fits into those lines
MIN_CHART_LINES, MAX_CHART_LINES = 4, 18
OTHER_LINES = 7  # around the chart: frame 2, progress 1, numbers 3, and the line of the cursor
TRAIN_STYLE, VAL_STYLE = "cyan", "bold yellow"


def can_show_panel(console: Console) -> bool:
    """Whether `console` is a terminal that can redraw lines and has braille; otherwise print plain lines."""
    return can_redraw(console) and console.encoding.startswith("utf")


class RunningMean:
    """Exponential moving average with bias correction (as in Adam, arXiv:1412.6980)."""

    def __init__(self, decay: float = LOSS_DECAY) -> None:
        self.value, self._decay = math.nan, decay
        self._sum = self._weight = 0.0

    def add(self, value: float) -> float:
        """Add a value and return the mean; values that are not finite are ignored."""
        if math.isfinite(value):
            self._sum = self._decay * self._sum + (1 - self._decay) * value
            self._weight = self._decay * self._weight + (1 - self._decay)
            self.value = self._sum / self._weight
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
        self._train, self._val, self._loss = Curve(), Curve(), RunningMean()
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
    def step(self, info: StepInfo) -> None:
        self._train.add(info.step, self._loss.add(info.loss))
        self._now, self._first = info, self._first or info
        if self._entered and not self._live.is_started:  # not earlier: a mistake may end the run before it begins
            self._live.start(refresh=True)

    @override
    def evaluation(self, *, step: int, train_loss: float | None, val_loss: float, bits_per_byte: float | None) -> None:
        self._val.add(step, val_loss)
        self._best = min(self._best, val_loss)
        self._evaluation = train_loss, val_loss, bits_per_byte

    @override
    def sample(self, text: str) -> None:
        lines = visible(text[:MAX_SAMPLE_CHARACTERS]).split("\n")
        self._sample = "\n".join(line for line in lines if line.strip())  # few lines fit: no blank ones

    @override
    def message(self, text: str) -> None:
        self._console.print(Text(single_line(text)))

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
            Series(list(self._train.points), TRAIN_STYLE),  # a copy: training adds points while this is drawn
            Series(list(self._val.points), VAL_STYLE, joined=False),
        ]
        steps = [first.step, now.step, *(step for step, _ in self._val.points)]  # an evaluation may come before step 1
        chart = braille_chart(series, width, height, x_range=(min(steps), max(steps)))
        return Group(self._header(first, now), chart, self._numbers(now), *sample)

    def _header(self, first: StepInfo, now: StepInfo) -> Table:
        total = "" if self._total_steps is None else f" of {self._total_steps:,}"
        bar = ProgressBar(total=1, completed=now.progress, complete_style=TRAIN_STYLE, finished_style="green")
        grid = Table.grid(padding=(0, 1), expand=True)
        for ratio in (None, 1, None):
            grid.add_column(ratio=ratio, no_wrap=ratio is None)
        grid.add_row(f"step {now.step:,}{total}", bar, f"{now.progress:4.0%}  {self._time(first, now)}")
        return grid

    def _time(self, first: StepInfo, now: StepInfo) -> str:
        if now.progress >= 1:
            return f"took {human_time(now.elapsed)}"
        limits = []
        # Measured from the first step shown: a resumed run starts in the middle, and its clock may restart.
        done = now.progress - first.progress
        if done > 0:
            limits.append((now.elapsed - first.elapsed) / done * (1 - now.progress))
        if self._max_seconds is not None:
            limits.append(max(0.0, self._max_seconds - now.elapsed))
        return f"{human_time(min(limits))} left" if limits else f"after {human_time(now.elapsed)}"

    def _numbers(self, now: StepInfo) -> Table:
        train, val, bits = self._evaluation
        best = f", best {self._best:.4f}" if math.isfinite(self._best) else ""
        gap = None if val is None or train is None else val - train
        grid = Table.grid(expand=True)
        for ratio in (32, 24, 20):  # cells on an 80-column terminal, enough for the longest numbers; scaled beyond
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
        kept = lines[: max(1, self._console.height // 6)]  # one line in six of the terminal
        if len(kept) < len(lines):
            kept[-1].truncate(max(1, width - 1))
            kept[-1].append("…")
        return [Rule(Text("sample", style="dim"), style="dim", align="left"), *kept]


def _number(label: str, value: str, label_width: int, style: str = "") -> Text:
    return Text.assemble((f"{label:<{label_width}}", style or "dim"), value)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
