"""Which tokenizer and preset suit a text: by its size, this machine, and the time that people have. No torch here."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from groundup.config.aliases import resolve_aliases
from groundup.config.merge import ConfigSource, flatten, merge_and_validate
from groundup.config.presets import PRESETS, preset
from groundup.config.schema import Config
from groundup.config.sections import RUN_LENGTHS
from groundup.data.windows import windows_per_epoch
from groundup.optim.run_length import TimeLength
from groundup.planning.gpus import GPUS
from groundup.planning.memory import Machine
from groundup.planning.plan import DataSize, Plan, Speed
from groundup.planning.policy import resolve
from groundup.planning.warnings import CHINCHILLA_RATIO, MAX_EPOCHS, MIN_STEPS, warnings
from groundup.tokenizers.auto import auto_tokenizer
from groundup.ui.format import columns, human_duration, human_figures, human_plural
from groundup.utils.system import free_disk, main_memory, usable_cores

PROPOSED = ("gpt2-nano", "modern-micro", "modern-mini", "gpt2")  # one of each size, small to large
PROBES = {"cpu": "modern-micro", "mps": "modern-mini", "cuda": "modern-mini"}  # timed for the speed of all presets
MAX_SECONDS = {"cpu": 3600, "mps": 3600, "cuda": 24 * 3600}  # of a proposed run: an hour of a computer, a day of a GPU
LARGE_TEXT_BYTES = 4_000_000_000  # enough for a model with the vocabulary of GPT-2
CORE_FLOPS = 30e9  # per second and core that training reaches: docs/performance.md measures 23 to 55, with AVX2
# Vocabulary -> bytes of English per token, measured on Tiny Shakespeare (GPT-2's: on novels).
BYTES_PER_TOKEN = {257: 1.0, 512: 1.9, 1024: 2.4, 2048: 2.9, 4096: 3.3, 50_257: 4.1}
H100 = GPUS["h100"]
VAL_FRACTION = 0.1  # of a text that `prepare` holds out


class Computer(NamedTuple):
    """A computer to train on."""

    name: str
    machine: Machine
    flops: float  # per second, that training reaches


TWO_CORES = Computer("2 cores", Machine("cpu", "fp32", 8 * 10**9, 10**11, threads=2), 2 * CORE_FLOPS)
ONE_H100 = Computer("an H100", Machine("cuda", "bf16", int(H100.memory), 10**12), H100.mfu * H100.peak)


@dataclass(frozen=True)
class Fit:
    """A preset on a text: its own run, or a shorter one where the text is too small for that."""

    preset: str
    plan: Plan
    epochs: float | None = None  # of the shorter run

    @property
    def options(self) -> list[str]:
        """Options of `groundup train` that shorten the run."""
        return ["--train.epochs", f"{self.epochs:g}"] if self.epochs else []

    @property
    def is_suitable(self) -> bool:
        """Whether it is trained in the time that people have, or that was asked for, with no warning."""
        seconds = self.plan.seconds
        in_time = isinstance(self.plan.run_length, TimeLength) or (
            seconds is not None and seconds <= MAX_SECONDS[self.plan.machine.device]
        )
        return in_time and not any(warnings(self.plan))

    @property
    def time(self) -> str:
        """Estimated time of the run, as text."""
        if not self.plan.fits:
            return "too large"
        return "unknown" if self.plan.seconds is None else human_duration(self.plan.seconds)


def fit_presets(
    tokens: int,
    val_tokens: int,
    vocab_size: int,
    machine: Machine,
    flops: float | None,
    *,
    source: str = "",
    options: Mapping[str, Any] | None = None,
    names: Iterable[str] = PRESETS,
) -> list[Fit]:
    """Each preset on a training split of so many `tokens`, with the user's `options`.

    `flops`: operations per second that training reaches on `machine`, known from `source`; None: unknown. A run is at
    most MAX_EPOCHS epochs, and of the smallest preset at least MIN_STEPS steps, unless the options set its length.
    Presets whose context is longer than the text are left out. ConfigError where options do not go with a preset.
    """
    given = ConfigSource("command line", dict(options or {}))
    keys, _ = resolve_aliases(flatten(given.values), given.origin)
    has_length = any(key == f"train.{name}" for key, _ in keys for name in RUN_LENGTHS)
    found = []
    for name in names:
        config = merge_and_validate([preset(name), given])
        if tokens <= config.model.block_size:
            continue
        data = DataSize(windows_per_epoch(tokens, config.model.block_size), val_tokens)
        least = MIN_STEPS if name == PROPOSED[0] else 1
        epochs = None if has_length else _fewer_epochs(config, data, least)
        if epochs:
            shorter = dict.fromkeys(RUN_LENGTHS) | {"epochs": float(epochs)}
            config = config.model_copy(update={"train": config.train.model_copy(update=shorter)})
        plan = Plan(resolve(config, machine, vocab_size, data.sequences), machine, data)
        if flops is not None:
            plan = replace(plan, speed=Speed(flops / plan.flops, source))
        found.append(Fit(name, plan, epochs))
    return found


def _fewer_epochs(config: Config, data: DataSize, least_steps: int) -> int | None:
    """The epochs to train for where the config's own run would read the text too often; None where it would not."""
    train, steps_per_epoch = config.train, data.sequences / config.batch_size
    most = max(MAX_EPOCHS, math.ceil(least_steps / steps_per_epoch))
    steps = train.max_steps or (train.max_tokens or 0) / train.batch_tokens
    return most if (train.epochs or steps / steps_per_epoch) > most else None


def choose(fits: Iterable[Fit]) -> Fit | None:
    """The largest proposed preset that is suitable; without one, the smallest; None without any."""
    proposed = sorted((fit for fit in fits if fit.preset in PROPOSED), key=lambda fit: PROPOSED.index(fit.preset))
    return next((fit for fit in reversed(proposed) if fit.is_suitable), proposed[0] if proposed else None)


def this_computer() -> Computer:
    """The cores of this machine, at a speed that is assumed."""
    cores = usable_cores()
    machine = Machine("cpu", "fp32", main_memory(), free_disk(Path()), threads=cores)
    return Computer(human_plural(cores, "core"), machine, CORE_FLOPS * cores)


def propose(tokens: int, val_tokens: int, vocab_size: int, computer: Computer) -> Fit | None:
    """The preset for prepared tokens; None for less than a sequence."""
    size = tokens, val_tokens, vocab_size
    return choose(fit_presets(*size, computer.machine, computer.flops, names=PROPOSED))


def propose_for_text(n_bytes: int, computer: Computer) -> tuple[str, Fit | None]:
    """Tokenizer and preset for a text in English that is not prepared yet: GPT-2's for a large text and a GPU."""
    is_large = n_bytes >= LARGE_TEXT_BYTES and computer.machine.device == "cuda"
    tokenizer = "gpt2" if is_large else auto_tokenizer(n_bytes).spec
    vocab_size = {"byte": 257, "gpt2": 50_257}.get(tokenizer) or int(tokenizer.removeprefix("bpe:"))
    tokens = round(n_bytes / BYTES_PER_TOKEN[vocab_size])
    val_tokens = round(VAL_FRACTION * tokens)
    return tokenizer, propose(tokens - val_tokens, val_tokens, vocab_size, computer)


CHOICE_HEADER = ("", "preset", "parameters", "time here", "epochs", "tokens per parameter")


def choice_rows(fits: list[Fit], chosen: Fit | None) -> list[tuple[str, ...]]:
    """One row per preset, the smallest first; the chosen one is marked."""
    rows: list[tuple[str, ...]] = []
    for fit in sorted(fits, key=lambda fit: fit.plan.parameters):
        plan = fit.plan
        each = [plan.epochs, plan.tokens_per_parameter]
        numbers = ["unknown" if x is None else human_figures(x) for x in each]
        rows.append((">" if fit is chosen else "", fit.preset, f"{plan.parameters:,}", fit.time, *numbers))
    return rows


def choice_table(fits: list[Fit], chosen: Fit | None) -> str:
    """The rows as lines of text."""
    rows = [(f"{mark:1} {name}", *numbers) for mark, name, *numbers in [CHOICE_HEADER, *choice_rows(fits, chosen)]]
    return "\n".join(columns(rows, right=range(1, len(rows[0]))))


def describe_choice(fits: list[Fit], chosen: Fit | None, source: str) -> list[str]:
    """Lines under the table: how its numbers were computed, and why one preset is marked."""
    lines = [
        "",
        f"time: estimated from {source}",
        "      and scaled by FLOPs; a run has the preset's own length, but at",
        f"      most {MAX_EPOCHS} epochs of this text, unless options set it",
        f"tokens per parameter: about {CHINCHILLA_RATIO} are compute-optimal",
    ]
    if n := len(PRESETS) - len(fits):
        lines.append(f"left out: {human_plural(n, 'preset')} whose context is longer than the text")
    if chosen and chosen.is_suitable:
        limit = human_duration(MAX_SECONDS[chosen.plan.machine.device])
        lines.append(f"> the largest of {', '.join(PROPOSED)}")
        lines.append(f"  that takes at most {limit} here and that no warning speaks against")
    elif chosen:
        lines.append(f"> the smallest of {', '.join(PROPOSED)}")
        lines.append("  as none of them suits this text and this machine")
        lines += [f"warning  {line}" for line in warnings(chosen.plan)]
    return lines


def choice_json(fits: list[Fit], chosen: Fit | None) -> list[dict[str, Any]]:
    """The same as values; times in seconds, unknown ones None."""
    return [
        {
            "preset": fit.preset,
            "chosen": fit is chosen,
            "parameters": fit.plan.parameters,
            "fits": fit.plan.fits,
            "seconds": fit.plan.seconds,
            "steps": fit.plan.steps,
            "tokens": fit.plan.tokens,
            "epochs": fit.plan.epochs,
            "tokens_per_parameter": fit.plan.tokens_per_parameter,
            "options": fit.options,
            "warnings": list(warnings(fit.plan)),
        }
        for fit in fits
    ]
