"""Changes of a file: of all of it, and of each value in its JSON, YAML or safetensors header."""

import bz2
import gzip
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zstandard
from safetensors.numpy import load, save

ESCAPES = "\x1b]0;title\x07\x1b[31m\r\n\x9b\u202e"  # a terminal's title, a colour, a new line, text from right to left
SECRET = "../outside/precious.txt"
DEPTH = 100_000
RAW = "@raw@"  # stands for text that no JSON value would be written as
MiB = 1 << 20


@dataclass(frozen=True)
class Mutation:
    """A change of the file at a path; `broken`: no reader of this file may accept what it then holds."""

    name: str
    apply: Callable[[Path], None]
    broken: bool = False


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(path)

    return apply


def of_length(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


def linked(place: str) -> Callable[[Path], None]:
    """The file itself lies elsewhere, under a link."""

    def apply(path: Path) -> None:
        target = Path(place).resolve() / "moved"
        path.rename(target)
        path.symlink_to(target)

    return apply


WHOLE = [
    Mutation("empty", rewrite(lambda _: b""), broken=True),
    Mutation("half", rewrite(lambda b: b[: len(b) // 2]), broken=True),
    Mutation("without the last bytes", rewrite(lambda b: b[:-3])),
    Mutation("zeros", rewrite(lambda b: bytes(len(b))), broken=True),
    Mutation("zeros to 3 GB", of_length(3 << 30), broken=True),
    Mutation("grown", rewrite(lambda b: b + b"\0\xff" * 500)),
    Mutation("twice", rewrite(lambda b: b + b)),
    Mutation("UTF-16", rewrite(lambda b: b.decode("latin-1").encode("utf-16"))),
    Mutation("no UTF-8", rewrite(lambda b: b"\xff\xfe\x80" + b), broken=True),
    Mutation("control characters", rewrite(lambda _: ESCAPES.encode()), broken=True),
    Mutation("a link to /dev/zero", replaced(lambda p: p.symlink_to("/dev/zero")), broken=True),
    Mutation("a link to nothing", replaced(lambda p: p.symlink_to("nowhere" + ESCAPES))),
    Mutation("a link to itself", replaced(lambda p: p.symlink_to(p.name)), broken=True),
    Mutation("a link to a foreign text", replaced(lambda p: p.symlink_to(Path(SECRET.removeprefix("../")).resolve()))),
    Mutation("a link to the same elsewhere", linked("outside")),
    Mutation("a pipe", replaced(os.mkfifo), broken=True),
    Mutation("a folder", replaced(Path.mkdir), broken=True),
    Mutation("missing", replaced(lambda p: None)),
]

JSON_TEXTS = {
    "nested lists": "[" * DEPTH,
    "nested lists, closed": "[" * DEPTH + "]" * DEPTH,
    "nested objects": '{"a":' * DEPTH,
    "a list": "[1, 2]",
    "a number": "3",
    "a text": '"' + "x" * 100 + '"',
    "null": "null",
    "NaN": "NaN",
    "an integer of 5,000 digits": "1" * 5000,
    "40 MB of spaces": " " * (40 * MiB),
    "an empty object": "{}",
}

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a text": "x",
    "an empty text": "",
    "a list": [],
    "a list of lists": [[1, [2]], {"a": None}],
    "an object": {},
    "an object of texts": {"a": "b", ESCAPES: ESCAPES},
    "-1": -1,
    "0": 0,
    "a half": 0.5,
    "10^9": 10**9,
    "2^63": 2**63,
    "10^400": 10**400,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "-infinity": float("-inf"),
    "control characters": ESCAPES,
    "a zero byte": "a\0b",
    "a lone surrogate": "\ud800",
    "a path": SECRET,
    "an absolute path": "/dev/zero",
    "a long text": "x" * (1 * MiB),
    "nested lists": RAW,
}


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The place of each value in a JSON value, objects and lists too; of long lists only the first and last member."""
    if path:
        yield path
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return
    for key, inner in items if len(items) <= 60 else items[:20] + items[-1:]:
        yield from leaves(inner, (*path, key))


def changed(value: Any, path: tuple, new: Any) -> Any:
    """A copy with another value at a place; without it, where `new` is MISSING."""
    key, *rest = path
    copy = list(value) if isinstance(value, list) else dict(value)
    if rest:
        copy[key] = changed(copy[key], tuple(rest), new)
    elif new is MISSING:
        del copy[key]
    else:
        copy[key] = new
    return copy


MISSING = object()


def dump(value: Any) -> bytes:
    return json.dumps(value, indent=1).replace(f'"{RAW}"', "[" * DEPTH + "]" * DEPTH).encode()


def value_mutations(value: Any, parse: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Iterator[Mutation]:
    """Each value of a file replaced by each of VALUES or left out, and a key too many; `value` shows what there is."""
    for path in leaves(value):
        dotted = ".".join(map(str, path))
        for name, new in {**VALUES, "missing": MISSING}.items():
            yield Mutation(f"{dotted} is {name}", rewrite(lambda b, p=path, n=new: write(changed(parse(b), p, n))))
    if isinstance(value, dict):
        yield Mutation("an unknown key", rewrite(lambda b: write({**parse(b), ESCAPES: ESCAPES})))


def of_json(path: Path) -> Iterator[Mutation]:
    for name, text in JSON_TEXTS.items():
        yield Mutation(name, rewrite(lambda _, t=text: t.encode()), broken=name != "an empty object")
    yield from value_mutations(json.loads(path.read_bytes()), json.loads, dump)


def of_lines(path: Path) -> Iterator[Mutation]:
    """Of JSON, one object a line: the first object of each kind of record is changed."""
    lines = path.read_bytes().splitlines()

    def at(number: int, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
        return rewrite(
            lambda b: b"\n".join([*(x := b.splitlines())[:number], change(x[number]), *x[number + 1 :], b""])
        )

    for name, text in JSON_TEXTS.items():
        yield Mutation(f"a line is {name}", at(len(lines) // 2, lambda _, t=text: t.encode()))
    kinds = {json.dumps(sorted(json.loads(line))): number for number, line in reversed(list(enumerate(lines)))}
    for number in sorted(kinds.values()):
        for place in leaves(json.loads(lines[number])):
            for name, new in {**VALUES, "missing": MISSING}.items():
                dotted = ".".join(map(str, place))
                line = lambda b, p=place, n=new: dump(changed(json.loads(b), p, n)).replace(b"\n", b"")  # noqa: E731
                yield Mutation(f"line {number}: {dotted} is {name}", at(number, line))


YAML_TEXTS = {
    "an anchor inside itself": "a: &a\n  b: *a\n",
    "aliases": "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" if i else "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        for i in range(9)
    ),
    "merges": "".join(
        f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n  k{i}: 1\n" if i else "a0: &a0 {x: 1}\n"
        for i in range(9)
    ),
    "nested flow": "model: " + "[" * 3000,
    "nested mappings": "{a: " * 3000,
    "nested blocks": "".join(" " * i + "a:\n" for i in range(2000)),
    "python/object/apply": "model: !!python/object/apply:os.system ['touch work/ran']\n",
    "python/name": "model: !!python/name:os.system\n",
    "an empty !!int": "model: !!int ''\n",
    "an empty !!float": "model: !!float ''\n",
    "!!bool x": "model: !!bool x\n",
    "!!timestamp x": "model: !!timestamp x\n",
    "!!binary x": "model: !!binary x\n",
    "an unknown tag": f"model: !tag{'x' * 50} 1\n",
    "a date": "model: {n_layer: 2020-01-01}\n",
    "a number of 50,000 digits": "model: {n_layer: 0x" + "f" * 50_000 + "}\n",
    "a zero byte": 'data: "a\\0b"\n',
    "a key with control characters": '"\\e]0;title\\a\\e[31m": 1\n',
    "a list as a key": "? [a, b]\n: 1\n",
    "two documents": "model: {}\n---\nmodel: {}\n",
    "a tab": "model:\n\tn_layer: 1\n",
    "20 MB of text": "data: " + "x" * (20 * MiB) + "\n",
    "20 MB of comments": "# x\n" * (5 * MiB),
    "a list": "- 1\n",
    "a number": "3\n",
}


def of_yaml(path: Path) -> Iterator[Mutation]:
    for name, text in YAML_TEXTS.items():
        yield Mutation(name, rewrite(lambda _, t=text: t.encode()))
    yield from value_mutations(yaml.safe_load(path.read_bytes()), yaml.safe_load, dump)  # JSON is YAML, almost


def header_of(content: bytes) -> tuple[dict, bytes]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def of_safetensors(path: Path) -> Iterator[Mutation]:
    """The length of the header, the header itself, and tensors of other shapes, types, values and names."""
    for size in (0, 1, 2**31, 2**63 - 1, 2**64 - 1):
        yield Mutation(f"header of {size} bytes", rewrite(lambda b, s=size: struct.pack("<Q", s) + b[8:]), broken=True)
    for name, text in JSON_TEXTS.items():
        yield Mutation(f"header is {name}", rewrite(lambda b, t=text: with_header(t.encode(), header_of(b)[1])))
    tensors = load(path.read_bytes())
    names = sorted(tensors)
    first, counts = names[0], [name for name in names if name.endswith("|step")]
    for name in dict.fromkeys((first, names[-1], *counts[:1])):
        for what, change in TENSORS.items():
            yield Mutation(f"{name} {what}", rewrite(lambda b, n=name, c=change: save(load(b) | {n: c(load(b)[n])})))
        yield Mutation(f"{name} missing", rewrite(lambda b, n=name: save({k: t for k, t in load(b).items() if k != n})))
    for what, change in TENSORS.items():
        yield Mutation(f"all {what}", rewrite(lambda b, c=change: save({n: c(t) for n, t in load(b).items()})))
    for name in (ESCAPES, "a|b|c", SECRET, "x" * MiB, ""):
        yield Mutation(f"a tensor named {name[:20]!r}", rewrite(lambda b, n=name: save(load(b) | {n: np.zeros(3)})))
    header, _ = header_of(path.read_bytes())
    for mutation_path in [p for p in leaves({first: header[first]}) if len(p) < 4]:
        for name, new in VALUES.items():

            def change(b: bytes, p: tuple = mutation_path, n: Any = new) -> bytes:
                header, body = header_of(b)
                return with_header(dump(changed(header, p, n)), body)

            yield Mutation(f"header: {'.'.join(map(str, mutation_path))} is {name}", rewrite(change))


TENSORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a scalar": lambda t: np.array(0.5, np.float32),
    "of one number": lambda t: t.reshape(-1)[:1].copy(),
    "empty": lambda t: np.zeros((0,), t.dtype),
    "flat": lambda t: t.reshape(-1).copy() if t.ndim != 1 else t.reshape(1, -1).copy(),
    "of another shape": lambda t: np.zeros((*t.shape, 2), t.dtype),
    "int8": lambda t: t.astype(np.int8),
    "bool": lambda t: t.astype(bool),
    "float16": lambda t: t.astype(np.float16),
    "float64": lambda t: t.astype(np.float64),
    "NaN": lambda t: np.full_like(t, np.nan),
    "infinite": lambda t: np.full_like(t, np.inf),
    "huge": lambda t: np.full_like(t, 3e38),
    "negative": lambda t: np.full_like(t, -1),
}


class Runs:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch work/ran",)


class Bytes:
    """Unpickled, it is 6 GB."""

    def __reduce__(self) -> tuple:
        return bytearray, (6 * 10**9,)


PICKLES = {
    "a command": Runs(),
    "6 GB": Bytes(),
    "a command in a dict": {"model": {"a": Runs()}, "model_args": {}},
    "control characters": {ESCAPES: ESCAPES, "model": {ESCAPES: 1}, "model_args": {ESCAPES: ESCAPES}},
    "no weights": {"model": {}, "model_args": {}},
    "numbers": {"model": 3, "model_args": 4},
    "a list": [1, 2],
}


def of_pt(path: Path) -> Iterator[Mutation]:
    """Other pickles in torch's archive, and in its old format, which is a row of pickles."""
    pickles = {name: pickle.dumps(value, 2) for name, value in PICKLES.items()}
    pickles["nested"] = b"\x80\x02" + b"(" * DEPTH + b"l" * DEPTH + b"."
    pickles["unknown opcodes"] = b"\x80\x02\xff\xfe."
    pickles["a memo of 2^31"] = b"\x80\x02]r\xff\xff\xff\x7f."
    pickles["a text of 2^31 bytes"] = b"\x80\x02X\xff\xff\xff\x7fabc."
    pickles["empty"] = b""
    for name, content in pickles.items():
        yield Mutation(f"{name}, in an archive", replaced_pickle(content))
        yield Mutation(f"{name}, of the old format", rewrite(lambda _, c=content: c), broken=True)
        yield Mutation(
            f"{name}, after the old format's head",
            rewrite(lambda _, c=content: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + c),
            broken=True,
        )
    for name in (SECRET, "/dev/zero", ESCAPES.replace("\n", ""), "x" * 60_000):
        yield Mutation(f"a member named {name[:20]!r}", replaced_pickle(None, extra=(name, b"x")))
    yield Mutation("200 MB of zeros, packed", replaced_pickle(None, extra=("archive/data/99", bytes(200 * MiB))))


def replaced_pickle(content: bytes | None, extra: tuple[str, bytes] | None = None) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if extra else zipfile.ZIP_STORED) as archive:
            for name, old in members.items():
                archive.writestr(name, content if content is not None and name.endswith("data.pkl") else old)
            if extra:
                archive.writestr(*extra)

    return apply


def of_binary(path: Path) -> Iterator[Mutation]:
    """Of a file with a header of numbers: each of the first ones, and single bits."""
    for word in range(8):
        for value in (0, -1, 2**31 - 1, 1):
            yield Mutation(
                f"word {word} is {value}",
                rewrite(lambda b, w=word, v=value: b[: 4 * w] + struct.pack("<i", v) + b[4 * w + 4 :]),
            )


def of_sums(path: Path) -> Iterator[Mutation]:
    digest = "0" * 64
    for name in (SECRET, "/etc/passwd", ESCAPES.replace("\n", ""), "x" * MiB, "", ".", "a\0b", "optimizer"):
        line = f"{digest}  {name}\n".encode()
        yield Mutation(f"names {name[:20]!r}", rewrite(lambda b, x=line: b + x), broken=True)
    yield Mutation("10 MB of lines", rewrite(lambda b: b + f"{digest}  x\n".encode() * (MiB // 7)), broken=True)
    yield Mutation("no digests", rewrite(lambda b: b.replace(b"a", b"z")), broken=True)
    yield Mutation("one line less", rewrite(lambda b: b"".join(b.splitlines(keepends=True)[1:])), broken=True)


TEXTS = {
    "an invalid byte": b"good text\n\xff\xfe\n" * 20,
    "zero bytes": b"a\0b" * 1000,
    "control characters": ESCAPES.encode() * 100,
    "no text": b"",
    "only spaces": b" \n" * 1000,
    "one character": b"x",
}


def of_text(path: Path) -> Iterator[Mutation]:
    """Of a text that may be packed: other texts, and a packed one that is far larger than its file."""
    pack = PACKERS.get(path.suffix, lambda b: b)
    for name, text in TEXTS.items():
        yield Mutation(f"holds {name}", rewrite(lambda _, t=text: pack(t)))
    if path.suffix in PACKERS:
        yield Mutation("100 MB in one line", rewrite(lambda _: pack(b"x" * (100 * MiB))))


PACKERS = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}


def of_rows(path: Path) -> Iterator[Mutation]:
    """Of .jsonl that may be packed."""
    if path.suffix not in PACKERS:
        yield from of_lines(path)
        return
    pack = PACKERS[path.suffix]
    for name, text in JSON_TEXTS.items():
        yield Mutation(f"a line is {name}", rewrite(lambda _, t=text: pack(t.encode() + b"\n")))
    yield Mutation("a row of 600 MB", rewrite(lambda _: pack(b'{"text": "' + b"x" * (600 * MiB) + b'"}\n')))


def of_tokenizer(path: Path) -> Iterator[Mutation]:
    """Of the tokenizer.json of the library `tokenizers`: rules that take more than their size."""
    rules = {
        "a chain of replacements": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "x"}, "content": "x" * 20} for _ in range(8)],
        },
        "a long prefix": {"type": "Prepend", "prepend": "x" * (20 * MiB)},
        "a slow pattern": {"type": "Replace", "pattern": {"Regex": "(a|aa|e|ee)+b"}, "content": ""},
        "an invalid pattern": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""},
    }
    for name, rule in rules.items():
        yield Mutation(name, rewrite(lambda b, r=rule: json.dumps(json.loads(b) | {"normalizer": r}).encode()))
    yield from of_json(path)


def of_wheel(path: Path) -> Iterator[Mutation]:
    """Of the comment of a zip archive."""
    for name, text in JSON_TEXTS.items():
        if len(text) < 65_536:
            yield Mutation(f"its comment is {name}", commented(text.encode()))
    yield Mutation("its comment is nested", commented(b"[" * 60_000))
    yield Mutation("its comment has control characters", commented(json.dumps({ESCAPES: ESCAPES}).encode()))


def commented(comment: bytes) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = comment

    return apply


def nothing_more(path: Path) -> Iterator[Mutation]:
    return iter(())


def of_place(path: Path) -> Iterator[Mutation]:
    """Of a name that a command may write to, or search: what is there leads elsewhere."""
    for name, make in PLACES.items():
        yield Mutation(name, replaced(make))
    if path.exists():
        yield Mutation("has moved behind a link", linked("outside"))


PLACES: dict[str, Callable[[Path], object]] = {
    "leads to a text": lambda p: p.symlink_to(Path("outside/precious.txt").resolve()),
    "leads to a folder": lambda p: p.symlink_to(Path("outside/folder").resolve()),
    "leads to a name that is free": lambda p: p.symlink_to(Path("outside/new").resolve()),
    "leads to /dev/zero": lambda p: p.symlink_to("/dev/zero"),
    "leads to itself": lambda p: p.symlink_to(p.name),
    "leads to control characters": lambda p: p.symlink_to(ESCAPES),
    "is a pipe": os.mkfifo,
    "is a folder": lambda p: (p.mkdir(), (p / "mine.txt").write_text("mine")),
    "is a text": lambda p: p.write_text("mine"),
}
