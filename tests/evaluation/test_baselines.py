import gzip
import lzma
import math
import random
import zlib
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import DataError
from groundup.evaluation import baselines as module
from groundup.evaluation.baselines import Baseline, baselines

TRAIN = b"the cat sat on the mat and the dog sat on the log. " * 40
VAL = b"the dog and the cat sat on the mat. " * 5


def measure(train: bytes, val: bytes) -> dict[str, float]:
    return {b.name: b.bits_per_byte for b in baselines(train, val)}


def slow_unigram(train: bytes, val: bytes) -> float:
    count = Counter(train)
    return sum(-math.log2((count[b] + 1) / (len(train) + 256)) for b in val) / len(val)


def slow_bigram(train: bytes, val: bytes) -> float:
    pair, before = Counter(pairwise(train)), Counter(train[:-1])
    bits = -math.log2((train.count(val[:1]) + 1) / (len(train) + 256))
    for a, b in pairwise(val):
        bits -= math.log2((pair[a, b] + 1) / (before[a] + 256))
    return bits / len(val)


def test_counting_models_by_hand() -> None:
    got = measure(b"aab", b"ab")
    # unigram: a twice and b once of three; bigram: after a, once a and once b.
    assert got["unigram"] == pytest.approx((math.log2(259 / 3) + math.log2(259 / 2)) / 2)
    assert got["bigram"] == pytest.approx((math.log2(259 / 3) + math.log2(258 / 2)) / 2)


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=100))
@settings(deadline=None, max_examples=50)
def test_counting_models_equal_the_slow_sums(train: bytes, val: bytes) -> None:
    got = {b.name: b.bits_per_byte for b in module._counting_models(train, val)}
    assert got["unigram"] == pytest.approx(slow_unigram(train, val))
    assert got["bigram"] == pytest.approx(slow_bigram(train, val))


@pytest.mark.parametrize("chunk", [1, 2, 7, len(TRAIN) - 1, len(TRAIN)])
def test_counting_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    complete = module._count_pairs(TRAIN)
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    assert (module._count_pairs(TRAIN) == complete).all()


def test_compressors_alone_are_the_sizes_of_files(tmp_path) -> None:
    with gzip.GzipFile(tmp_path / "val.gz", "wb", compresslevel=9, mtime=0) as file:
        file.write(VAL)
    name = len("val\0")  # GzipFile stores the file's name, the baseline does not
    with lzma.open(tmp_path / "val.xz", "wb", preset=9) as file:
        file.write(VAL)
    got = measure(TRAIN, VAL)
    assert got["gzip -9"] == pytest.approx(8 * ((tmp_path / "val.gz").stat().st_size - name) / len(VAL))
    assert got["xz -9"] == pytest.approx(8 * (tmp_path / "val.xz").stat().st_size / len(VAL))


def test_primed_deflate_can_be_read_back_with_the_same_dictionary() -> None:
    train = random.Random(0).randbytes(50_000) + TRAIN
    dictionary = train[-32768:]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=dictionary)
    packed = deflate.compress(VAL) + deflate.flush()
    assert zlib.decompressobj(-15, zdict=dictionary).decompress(packed) == VAL
    assert measure(train, VAL)["gzip -9, primed"] == pytest.approx(8 * len(packed) / len(VAL))


def test_primed_xz_is_a_difference_of_sizes() -> None:
    extra = len(lzma.compress(TRAIN + VAL, preset=9)) - len(lzma.compress(TRAIN, preset=9))
    assert measure(TRAIN, VAL)["xz -9, primed"] == pytest.approx(8 * extra / len(VAL))


def test_training_text_beyond_the_window_is_cut_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "XZ_WINDOW_BYTES", len(VAL) + 100)
    long, short = baselines(TRAIN, VAL)[3], baselines(TRAIN[-100:], VAL)[3]
    assert long.bits_per_byte == short.bits_per_byte
    assert "its last 100 bytes" in long.how
    assert "its last" not in short.how
    monkeypatch.setattr(module, "XZ_WINDOW_BYTES", len(VAL) - 1)  # no space at all
    assert baselines(TRAIN, VAL)[3].bits_per_byte == baselines(b"", VAL)[3].bits_per_byte


def test_random_bytes_cost_eight_bits() -> None:
    source = random.Random(1)
    got = measure(source.randbytes(200_000), source.randbytes(50_000))
    assert got["unigram"] == pytest.approx(8, abs=0.01)
    assert all(7.9 < bits < 8.3 for bits in got.values())


def test_priming_with_the_answer_makes_it_almost_free() -> None:
    text = random.Random(2).randbytes(20_000)
    got = measure(text, text)
    assert got["xz -9"] > 8
    assert got["xz -9, primed"] < 0.2  # .xz sizes are multiples of four bytes
    assert got["gzip -9, primed"] < 0.1


def test_structure_helps() -> None:
    got = measure(TRAIN, VAL)
    assert got["xz -9, primed"] < got["gzip -9"]
    assert got["bigram"] < got["unigram"] < 8


@pytest.mark.parametrize("train", [b"", b"a", TRAIN])
@pytest.mark.parametrize("val", [b"\x00", b"\xff\xfe\x00 never seen"])
def test_unseen_bytes_stay_finite(train: bytes, val: bytes) -> None:
    assert all(math.isfinite(bits) and bits >= 0 for bits in measure(train, val).values())


def test_each_baseline_describes_itself_in_one_sentence() -> None:
    found = baselines(TRAIN, VAL)
    names = ["gzip -9", "xz -9", "gzip -9, primed", "xz -9, primed", "unigram", "bigram"]
    assert [b.name for b in found] == names
    assert all(isinstance(b, Baseline) and b.how.endswith(".") for b in found)


def test_empty_validation_is_refused() -> None:
    with pytest.raises(DataError, match="validation text is empty"):
        baselines(TRAIN, b"")
