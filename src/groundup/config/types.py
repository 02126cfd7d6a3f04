"""The kinds of values that a config is made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

UNITS = {"h": 3600, "m": 60, "s": 1}  # seconds


def parse_duration(value: Any) -> float:
    """Seconds from a number or from text such as `90`, `30m`, `1h30m`; ValueError says what was expected."""
    text = str(value).strip().lower()
    if re.fullmatch(r"\d+(\.\d*)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        raise ValueError("expected a duration such as 90s, 30m or 1h30m")
    return sum(float(number) * UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([hms])", text))


# Bounds beyond anything that will be trained, and within which no product or quotient leaves the range of a float.
LONGEST = 1e10  # seconds; three centuries
MOST = 10**15  # steps or tokens; the largest runs of 2025 saw some 10^13 tokens
LARGEST = 10**9  # of one dimension of a tensor

Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, le=LONGEST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Rate = Annotated[float, Field(ge=1e-12, le=10)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

Recomputed = Literal["off", "cheap", "blocks"]
"""what a backward pass computes again instead of keeping: nothing; norms and nonlinearities; whole blocks"""

DEVICE_PATTERN = r"auto|cpu|mps|cuda(:\d+)?"


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, the text under a field becomes its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def by_comma(value: Any) -> Any:
    """A text as the tuple of its parts between commas; anything else as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
