"""Types of config values: numbers with bounds, durations, lists, and whether a key may change on resume."""

import re
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SECONDS_PER_UNIT = {"h": 3600, "m": 60, "s": 1}


def parse_duration(value: Any) -> float:
    """Seconds from a number or from text such as `90`, `30m`, `1h30m`; ValueError says what was expected."""
    if isinstance(value, float):
        return value  # as a config.yaml has it, such as 1e-05
    text = str(value).strip().lower()
    if re.fullmatch(r"\d+(\.\d*)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        raise ValueError("expected a duration such as 90s, 30m or 1h30m")
    return sum(float(number) * SECONDS_PER_UNIT[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([hms])", text))


def parse_whole(value: Any) -> Any:
    """The number in text such as `1e3` or `2.5e3`, if it is whole; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,20}(\.\d{0,20})?[eE][+-]?\d{1,2}", value.strip()):
        number = Decimal(value.strip())
        return int(number) if number == int(number) else value
    return value


# Bounds beyond anything that will be trained, and within which no product or quotient leaves the range of a float.
MAX_SECONDS = 1e10  # three centuries
MAX_TOKENS = 10**15  # or steps; the largest runs of 2025 saw some 10^13 tokens
MAX_DIMENSION = 10**9  # of a tensor

Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, le=MAX_SECONDS)]
Whole = Annotated[int, BeforeValidator(parse_whole)]
Positive = Annotated[Whole, Field(ge=1, le=MAX_TOKENS)]
Count = Annotated[Whole, Field(ge=0, le=MAX_TOKENS)]
Size = Annotated[Whole, Field(ge=1, le=MAX_DIMENSION)]
Epochs = Annotated[float, Field(gt=0, le=1e9)]
Rate = Annotated[float, Field(ge=1e-12, le=10)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

CheckpointingMode = Literal["none", "selective", "full"]
"""what the backward pass recomputes instead of keeping: nothing; norms and nonlinearities; whole blocks"""


class OnResume(Enum):
    """Whether a config key may change when a run is resumed. Noted at the field; FIXED where nothing is noted."""

    FIXED = "fixed"  # decides what is computed: a new run is needed
    ROUNDING = "rounding"  # the same numbers up to rounding, not bit for bit
    FREE = "free"  # no effect on the numbers of a step


FIXED, ROUNDING, FREE = OnResume


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, the text under a field becomes its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    on_resume: ClassVar[OnResume] = FIXED  # of the fields that note nothing of their own


def split_commas(value: Any) -> Any:
    """Text as a tuple of its parts between commas, `none` and no value as an empty one; anything else as it is."""
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return ()
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
