"""The table of files that others may have written, and of the commands that read them.

A reader that is new joins with a row here; its valid input is written by material.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import archives
import mutations as m
import packages
from mutations import Mutation

from groundup.utils.files import write_checksums

CHECKPOINT = "in/run/checkpoints/step-00000002"
RESUME = "resume in/run --train.max_steps 3"
FSCK = "fsck in/run"
GENERATE = "generate in/run --max-tokens 3"
EVALUATE = "evaluate in/run --tokens 50 --no-baselines"
EXPORT = "export in/run --to hf --out work/out"
COMPARE = "compare in/run in/other"
WHY = "why in/run 1"
TRAIN = (
    "train gpt2-nano --data in/data --out work/out --model.n_layer 1 --model.n_head 2 --model.n_embd 8 "
    "--model.block_size 16 --train.max_steps 1 --train.batch_tokens 64 --train.threads 1 --train.precision fp32 "
    "--train.device cpu --evaluate.tokens 50 --evaluate.sample_tokens 4 --schedule.warmup_steps 0"
)


@dataclass(frozen=True)
class Reader:
    """A kind of file: one of them, how it can be changed, and commands that read it."""

    name: str
    path: str
    kind: Callable[[Path], Iterator[Mutation]]
    commands: tuple[str, ...]
    needs: tuple[str, ...]  # folders and files of `in` that the commands read
    # Whether each command needs the file: it then refuses one that is broken. The others may ignore it.
    required: bool = True
    whole: bool = True  # whether the changes of whole files apply
    skips: tuple[
        str, ...
    ] = ()  # changes that are no mistake here: a user may name a pipe, and wait, or a link as output

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that the file is a part of."""
        inside = self.path.startswith(f"{CHECKPOINT}/") and not self.path.endswith("SHA256SUMS")
        return Path(CHECKPOINT) if inside else None

    def find(self) -> Path:
        """The file; in its name a `*` stands for a version."""
        return next(iter(sorted(Path().glob(self.path))), Path(self.path)) if "*" in self.path else Path(self.path)

    def mutations(self) -> Iterator[Mutation]:
        """Of the whole file, and those of its kind."""
        if self.whole:
            yield from (change for change in m.WHOLE if change.name not in self.skips)
        yield from (change for change in self.kind(self.find()) if change.name not in self.skips)

    def apply(self, mutation: Mutation) -> None:
        """Change the file, under checksums that hold."""
        mutation.apply(self.find())
        if self.checkpoint and Path(self.path).is_file() and Path(self.path).stat().st_size < 1 << 30:
            (self.checkpoint / "SHA256SUMS").unlink()
            write_checksums(self.checkpoint)


RUN = ("run", "data", "other")
OF_CHECKPOINT = (RESUME, GENERATE, FSCK, EXPORT, EVALUATE)


def prepare(source: str, tokenizer: str = "byte") -> str:
    return f"prepare {source} --out work/out --tokenizer {tokenizer}"


def import_(source: str) -> str:
    return f"import in/{source} --out work/out --tokenizer byte"


def text(name: str, kind: Callable[[Path], Iterator[Mutation]] = m.of_text, *more_skips: str) -> Reader:
    skips = ("a pipe", "a link to /dev/zero", "zeros to 3 GB") if name.endswith(".txt") else ("a pipe", *more_skips)
    return Reader(
        name, f"in/texts/{name}", kind, (prepare(f"in/texts/{name}"),), ("texts",), required=False, skips=skips
    )


def place(path: str, *commands: str, needs: tuple[str, ...] = RUN, skips: tuple[str, ...] = ()) -> Reader:
    """A name inside a folder of others, or next to an output."""
    return Reader(f"the place {path}", path, m.of_place, commands, needs, required=False, whole=False, skips=skips)


DATA_TOKENIZER = "tokenizer/groundup-tokenizer.json"
PAIRS = "in/pairs/tokenizer"
WITH_FILE = f"{TRAIN} --config in/config.yaml"
PREPARE_AGAIN = "prepare in/texts/doc.txt --out in/data --tokenizer byte"
EXPORT_AGAIN = "export in/run --to hf --out in/exported --overwrite"
ASK = "evaluate in/run --tasks in/questions.jsonl --no-baselines"

READERS = [
    Reader("checkpoint config", f"{CHECKPOINT}/config.json", m.of_json, OF_CHECKPOINT, RUN),
    Reader("checkpoint metadata", f"{CHECKPOINT}/progress.json", m.of_json, (RESUME, FSCK, EXPORT), RUN),
    Reader("weights", f"{CHECKPOINT}/model.safetensors", m.of_safetensors, (RESUME, FSCK), RUN),
    Reader("average", f"{CHECKPOINT}/average.safetensors", m.of_safetensors, (GENERATE, RESUME, FSCK), RUN),
    Reader("optimizer state", f"{CHECKPOINT}/optimizer/state.safetensors", m.of_safetensors, (RESUME, FSCK), RUN),
    Reader("checksums", f"{CHECKPOINT}/SHA256SUMS", m.of_sums, (RESUME, FSCK, GENERATE, EXPORT), RUN),
    Reader("checkpoint tokenizer", f"{CHECKPOINT}/{DATA_TOKENIZER}", m.of_json, (GENERATE, FSCK), RUN),
    Reader("run config", "in/run/config.yaml", m.of_yaml, (RESUME, FSCK, COMPARE, WHY), RUN, required=False),
    Reader("run log", "in/run/log.jsonl", m.of_lines, (RESUME, "resume in/run", COMPARE, FSCK), RUN, required=False),
    Reader("run environment", "in/run/environment.json", m.of_json, (EXPORT, FSCK, COMPARE), RUN, required=False),
    Reader(
        "config file", "in/config.yaml", m.of_yaml, (WITH_FILE,), ("config.yaml", "data"), skips=("empty", "a pipe")
    ),
    Reader("manifest", "in/data/manifest.json", m.of_json, (TRAIN, RESUME, EVALUATE), RUN),
    Reader("shard", "in/data/train-00000.bin", m.nothing_more, (TRAIN, RESUME), RUN),
    Reader("documents", "in/data/documents-train.bin", m.of_binary, (WHY, TRAIN), RUN, required=False),
    Reader("request", "in/data/request.json", m.of_json, (PREPARE_AGAIN,), ("data", "texts"), required=False),
    Reader("data tokenizer", f"in/data/{DATA_TOKENIZER}", m.of_json, (TRAIN,), RUN),
    Reader(
        "tokenizer.json", f"{PAIRS}/tokenizer.json", m.of_tokenizer,
        (prepare("in/texts/doc.txt", PAIRS), prepare("in/texts/doc.txt", f"{PAIRS}/tokenizer.json")),
        ("pairs", "texts"),
    ),
    Reader("transformers config", "in/gpt2/config.json", m.of_json, (import_("gpt2"),), ("gpt2",)),
    Reader("transformers weights", "in/gpt2/model.safetensors", m.of_safetensors, (import_("gpt2"),), ("gpt2",)),
    Reader("index", "in/split/model.safetensors.index.json", m.of_json, (import_("split"),), ("split",)),
    Reader("nanoGPT", "in/nanogpt.pt", m.of_pt, (import_("nanogpt.pt"),), ("nanogpt.pt",)),
    Reader("llm.c", "in/model.bin", m.of_binary, (import_("model.bin"),), ("model.bin",)),
    text("doc.txt"),
    text("doc.txt.gz"),
    text("doc.txt.bz2"),
    text("doc.txt.zst"),
    text("rows.jsonl", m.of_rows),
    text("rows.jsonl.zst", m.of_rows),
    text("rows.parquet", m.of_binary),
    *(text(name) for name in ("whatsapp", "film.srt")),
    *(text(name, archives.of_json_document) for name in ("telegram.json", "list.json", "notes.ipynb")),
    text("table.csv", archives.of_table, "a link to a foreign text"),
    text("letter.eml", archives.of_mail),
    text("box.mbox", archives.of_mail, "zeros to 3 GB"),  # read to its end: one message is too long
    text("letter.pdf", m.of_binary),
    *(text(name, packages.of_page) for name in ("page.html", "letter.rtf")),
    *(text(name, packages.of_package) for name in packages.PACKAGES),
    *(text(name, archives.of_zip) for name in ("texts.zip", "slack.zip")),
    *(text(name, archives.of_tar) for name in ("texts.tar", "texts.tgz")),
    Reader("questions", "in/questions.jsonl", m.of_lines, (ASK,), (*RUN, "questions.jsonl"), required=False),
    Reader(
        "wheel of a Space", "in/space/*.whl", m.of_wheel, ("export in/run --to space --out in/space --overwrite",),
        (*RUN, "space"), required=False,
    ),
    *(place(f"in/run/{name}", RESUME, FSCK) for name in (
        ".lock", ".config.yaml.partial", "log.jsonl", "checkpoints", "latest", "best", ".latest.partial",
        "environment.json", ".environment.json.partial",
    )),
    *(place(f"in/run/checkpoints/{name}", RESUME, FSCK, GENERATE) for name in (
        ".step-00000003.partial", "step-00000003", "step-\u00b2", "step-00000002", "step-00000002/optimizer",
        "step-00000002/tokenizer",
    )),
    place("in/data/tokenizer", TRAIN, RESUME),
    place(
        "work/out", EXPORT, prepare("in/texts/doc.txt"), needs=(*RUN, "texts"), skips=("leads to a name that is free",)
    ),
    place("work/.out.partial", EXPORT, prepare("in/texts/doc.txt"), TRAIN, needs=(*RUN, "texts")),
    place("work/.plot.svg.partial", f"{COMPARE} --out work/plot.svg"),
    place("in/texts/more.txt", prepare("in/texts/*.txt"), needs=("texts",)),
    Reader("earlier export", "in/exported/config.json", m.of_json, (EXPORT_AGAIN,), (*RUN, "exported"), required=False),
]  # fmt: skip
