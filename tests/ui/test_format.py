import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.ui.format import human_bytes, human_count, human_time, visible


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (9.4, "9s"), (59.7, "1m 00s"), (125, "2m 05s"), (3720, "1h 02m"), (86_400 * 2 + 3600 * 3, "2d 03h")],
)
def test_human_time(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0"), (812, "812"), (10_120, "10.1K"), (999_999, "1M"), (3_276_800, "3.28M"), (5e12, "5T")]
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


@given(st.text())
def test_printable_text_has_no_terminal_commands(text: str) -> None:
    safe = visible(text)
    assert all(character.isprintable() or character == "\n" for character in safe)
    safe.encode("utf-8")  # no lone surrogates either
    assert visible(safe) == safe
