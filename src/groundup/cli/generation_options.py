"""The options of sampling that `groundup generate` and the prompt line share: values, checks, defaults and help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from groundup.cli.parsing import Parser, number, utf8, whole_number
from groundup.generation.sampling import Sampling

Values = dict[str, Any]
"""Destination of an option, such as `top_k` -> its value."""


@dataclass(frozen=True)
class GenerationOption:
    """An option, which is also a command of the prompt line: `--top-k 40` and `/top-k 40`."""

    spec: str
    text: str
    type: Callable[[str], Any]
    default: Any = None
    off: str = ""
    """at the prompt line, the word for the default where that is no value"""
    proposed: tuple[str, ...] = ()
    """values that completion proposes; others are accepted too"""

    @property
    def name(self) -> str:
        """Such as `top-k`."""
        return self.spec.partition(" ")[0]

    @property
    def key(self) -> str:
        """Such as `top_k`."""
        return self.name.replace("-", "_")

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return isinstance(self.default, list)

    def words(self, value: Any) -> list[str]:
        """Words of a command line with this value; none for the default."""
        if value == self.default:
            return []
        given = value if self.is_list else [value]
        return [word for each in given for word in option_words(self.name, self.written(each))]

    def written(self, value: Any) -> str:
        """One value as it is given."""
        parts = value if isinstance(value, tuple) else (value,)
        return "=".join(str(part).removesuffix(".0") if isinstance(part, float) else str(part) for part in parts)


def _bias(text: str) -> tuple[int, float]:
    """Type of `--logit-bias`."""
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=NUMBER, such as 198=-100") from None


GENERATION_OPTIONS = (
    GenerationOption(
        "max-tokens N", "tokens to generate per sample [100]", whole_number, 100, proposed=("50", "200", "1000")
    ),
    GenerationOption(
        "stop TEXT", "end each sample before this text; may be given several times", utf8, [], "none"
    ),
    GenerationOption(
        "temperature X", "0: always the most likely token; 1: the model's distribution [0.8]", number, 0.8,
        proposed=("0", "0.5", "0.8", "1"),
    ),
    GenerationOption(
        "top-k K", "sample from the K most likely tokens [all]", whole_number, None, "all", ("10", "50", "200")
    ),
    GenerationOption(
        "top-p P", "sample from the most likely tokens that add up to P [all]", number, None, "all", ("0.9", "0.95")
    ),
    GenerationOption(
        "min-p P", "sample from tokens at least P times as likely as the likeliest [all]", number, None, "all",
        ("0.05", "0.1"),
    ),
    GenerationOption(
        "repetition-penalty X", "make tokens of the prompt and the sample so far less likely; 1: off, 1.2: usual [1]",
        number, 1.0, proposed=("1", "1.2"),
    ),
    GenerationOption(
        "presence-penalty X", "subtract from the logits of tokens that the sample has, from -2 to 2 [0]",
        number, 0.0, proposed=("0", "0.5"),
    ),
    GenerationOption(
        "frequency-penalty X",
        "subtract from the logit of a token for each time that the sample has it, from -2 to 2 [0]",
        number, 0.0, proposed=("0", "0.5"),
    ),
    GenerationOption(
        "logit-bias ID=X",
        "add to the logit of a token: -100 excludes it, 100 all others; may be given several times",
        _bias, [], "none",
    ),
    GenerationOption("seed N", "random seed of the samples [0]", whole_number, 0),
)  # fmt: skip
DEFAULTS: Values = {option.key: option.default for option in GENERATION_OPTIONS}


def option_words(name: str, value: str) -> list[str]:
    """Words of a command line that give an option."""
    return [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]


def add_generation_options(parser: Parser) -> None:
    """Add all of them."""
    for option in GENERATION_OPTIONS:
        more = {"action": "append"} if option.is_list else {}
        parser.option(
            f"--{option.spec}", option.text, type=option.type, default=option.default, proposed=option.proposed, **more
        )


def values_of(args: argparse.Namespace) -> Values:
    """Their values on a command line."""
    return {option.key: getattr(args, option.key) for option in GENERATION_OPTIONS}


def sampling_of(values: Values) -> Sampling:
    """The sampling that values ask for. UsageError, which names the option, where one is out of range."""
    return Sampling(
        **{field.name: values[field.name] for field in fields(Sampling)} | {"logit_bias": dict(values["logit_bias"])}
    )
