"""Every preset planned for prepared data on this machine, and the one that suits the text."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from groundup.config.merge import ConfigSource
from groundup.config.schema import Config
from groundup.data.shards import Manifest
from groundup.planning.choice import (
    CHOICE_HEADER,
    PROBES,
    Fit,
    choice_rows,
    choice_table,
    choose,
    describe_choice,
    fit_presets,
)
from groundup.planning.memory import Machine
from groundup.run.compose import compose_config
from groundup.run.resolve import plan_here, plan_with_measured_speed
from groundup.ui.notebook import html_table


@dataclass(frozen=True, repr=False)
class PresetPlans:
    """The plan of each preset for prepared data; printed, it is a table."""

    data: Path
    fits: tuple[Fit, ...]
    chosen: Fit | None  # the preset that suits; None for less than a sequence of text
    source: str  # of the speed

    @override
    def __repr__(self) -> str:
        chosen = f"{self.chosen.preset} suits" if self.chosen else "too little text"
        return f"PresetPlans({self.data}: {len(self.fits)} presets, {chosen})"

    @override
    def __str__(self) -> str:
        lines = describe_choice(list(self.fits), self.chosen, self.source)
        return "\n".join([choice_table(list(self.fits), self.chosen), *lines])

    def _repr_html_(self) -> str:
        rows = choice_rows(list(self.fits), self.chosen)
        return html_table(rows, header=CHOICE_HEADER, numbers_from=2)


def plan_presets(data: Path, options: Mapping[str, Any]) -> PresetPlans:
    """Plan each preset for the folder `data`, with config keys as `options`; one preset is timed for a few seconds."""
    manifest = Manifest.load(data)
    splits, vocab_size = manifest.splits, manifest.tokenizer.n_vocab
    config = compose_config(None, [], ConfigSource("options", dict(options)))[1]
    machine, flops, source = measure_flops(config, vocab_size, options)
    size = splits["train"].tokens, splits["val"].tokens, vocab_size
    fits = fit_presets(*size, machine, flops, source=source, options=options)
    return PresetPlans(data, tuple(fits), choose(fits), source)


def measure_flops(config: Config, vocab_size: int, options: Mapping[str, Any]) -> tuple[Machine, float | None, str]:
    """FLOP/s of training here, measured on a small preset for a few seconds; None where it does not fit."""
    name = PROBES[plan_here(config, vocab_size, None).machine.device]
    probe = compose_config(name, [], ConfigSource("command line", dict(options)))[1]
    plan = plan_with_measured_speed(probe, vocab_size, None)
    machine = plan.machine
    if plan.speed is None:
        return machine, None, f"nothing: {name} does not fit into the memory of this machine"
    source = f"{plan.speed.source.removeprefix('estimated from ')} of {name}, timed here"
    return machine, plan.speed.tokens_per_s * plan.flops, f"{source} ({machine.device}, {machine.precision})"
