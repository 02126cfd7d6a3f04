import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.ui.format import (
    NOT_ESCAPED,
    human_bytes,
    human_count,
    human_duration,
    human_figures,
    human_plural,
    human_time,
    visible,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (9.4, "9s"), (59.7, "1m 00s"), (125, "2m 05s"), (3720, "1h 02m"), (86_400 * 2 + 3600 * 3, "2d 03h")],
)
def test_human_time(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (812, "812"), (999.5, "1K"), (10_120, "10.1K"), (999_999, "1M"), (3_276_800, "3.28M"), (5e12, "5T")],
)
def test_human_count(n: float, text: str) -> None:
    assert human_count(n) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (10_100, "10.1 kB"),
        (3_280_000, "3.28 MB"),
        (25.34e9, "25.3 GB"),
        (1.2e15, "1,200 TB"),
    ],
)
def test_human_bytes(n: float, text: str) -> None:
    assert human_bytes(n) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [(340e6, "340 MB"), (347.4e6, "350 MB"), (996e6, "1 GB"), (9.83e6, "9.8 MB")],
)
def test_human_bytes_that_are_estimated(n: float, text: str) -> None:
    assert human_bytes(n, 2) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"), (45, "45 s"), (89, "89 s"), (91, "1.5 min"), (725, "12 min"), (5399, "90 min"), (5400, "1.5 h"),
        (100_000, "28 h"), (7500, "2.1 h"), (11_000, "3 h"), (200_000, "2.3 days"),
        (1183 * 86_400, "3 years"), (1e14, "3,200,000 years"),
    ],
)  # fmt: skip
def test_human_duration(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0, "0"), (0.0178, "0.018"), (1.0, "1"), (1.72, "1.7"), (9.97, "10"), (11.43, "11"), (345, "340"), (355, "360"),
        (42_643.56, "43,000"), (5e-324, "4.9e-324"), (1e300, "1e+300"),
    ],
)  # fmt: skip
def test_human_figures(x: float, text: str) -> None:
    assert human_figures(x) == text


@pytest.mark.parametrize(("n", "text"), [(0, "0 files"), (1, "1 file"), (1200, "1,200 files")])
def test_human_plural(n: int, text: str) -> None:
    assert human_plural(n, "file") == text
    assert human_plural(1, "batch", "batches") == "1 batch"
    assert human_plural(2, "batch", "batches") == "2 batches"


@pytest.mark.parametrize(
    "text",
    [
        "10\u00a0000\u202f€",
        "全角\u3000空白",
        "می\u200cخواهم",
        "क्\u200dष",
        "👩\u200d🚀 ❤\ufe0f",
        "ខ្ញុំ\u200bទៅ",
        "\u06dd",
        "\U0001fa77\U0001fadf",  # emoji of Unicode 15 and 16, which older versions of Python do not know
        "\u0378",  # assigned in no version yet
        "a\nb",
    ],
)
def test_text_of_any_language_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    "text",
    ["\x00", "\t", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\xad", "\u061c", "\u200e", "\u200f", "\u2028", "\u2029",
     "\u202a", "\u202e", "\u2065", "\u2066", "\u2069", "\ufeff", "\ufff0", "\ufff9", "\ud800",
     "\ue000", "\U000e0001", "\U000e0041", "\U000e0fff"],
    ids=ascii,
)  # fmt: skip
def test_what_a_terminal_may_obey_or_cannot_show_is_escaped(text: str) -> None:
    assert visible(text) == ascii(text)[1:-1]


@given(st.text())
def test_shown_text_has_no_terminal_commands(text: str) -> None:
    safe = visible(text)
    assert {unicodedata.category(character) for character in safe if character not in NOT_ESCAPED}.isdisjoint(
        {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    )
    safe.encode("utf-8")  # no lone surrogates either
    assert visible(safe) == safe
