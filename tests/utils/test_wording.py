"""Messages of the command line in the words of the Python API."""

import pytest

from groundup.errors import DataError
from groundup.utils.wording import raises_for_python, worded_for_python


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("x: is a file; name a folder with --out", "x: is a file; name a folder with out="),
        ("give another --out, or --overwrite to replace it", "give another out=, or overwrite=True to replace it"),
        ("give --train.max_steps, or --train.epochs 4", "give train.max_steps, or train.epochs 4"),
        ("prepare it with --val-fraction 0.1", "prepare it with val_fraction=0.1"),
        ("such as --tokenizer bpe:4096.", "such as tokenizer=bpe:4096."),
        ("--steps 3: must be 2 or more", "steps=3: must be 2 or more"),
        ("add --encoding cp1252", "add encoding=cp1252"),
        ("export it with --to hf", "export it with to=hf"),
        ("give its path with --data DIR", "give its path with data=DIR"),
        ("resume it with `groundup resume 'my runs/a'`", "resume it with `groundup.resume('my runs/a')`"),
        ("make one with `groundup prepare`", "make one with `groundup.prepare`"),
        ("run `groundup quickstart a.txt --minutes 6`", "run `groundup quickstart a.txt --minutes 6`"),
        ("see `groundup doctor`", "see `groundup doctor`"),
        (
            "prepare it by: groundup prepare a.txt --out d --tokenizer char; or give another --data",
            "prepare it by: groundup prepare a.txt --out d --tokenizer char; or give another data=",
        ),
        ("install it with pip install --editable '.[hf]'", "install it with pip install --editable '.[hf]'"),
        ("a--b, -- and x -- y stay", "a--b, -- and x -- y stay"),
        ("one ` alone, --out", "one ` alone, out="),
        ("`an 'open quote`", "`an 'open quote`"),
    ],
)
def test_options_become_arguments_and_plain_commands_calls(message, expected):
    assert worded_for_python(message) == expected
    assert worded_for_python(expected) == expected


def test_a_function_raises_the_same_error_in_other_words():
    @raises_for_python
    def fail(error):
        raise error

    error = DataError("give --out")
    with pytest.raises(DataError, match=r"^give out=$") as caught:
        fail(error)
    assert caught.value is error
    with pytest.raises(KeyError):
        fail(KeyError("--out"))
