"""Valid inputs, from which the cases are made. All paths in them are relative to the folder that holds `in`."""

import bz2
import csv
import gzip
import json
import mailbox
import random
import shutil
import sys
import zipfile
from contextlib import closing, suppress
from email.message import EmailMessage
from pathlib import Path

import archives
import packages
import torch
import yaml
import zstandard

from groundup.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))

from foreign_models import SMALL, gpt, hf_folder, llmc, nanogpt

WORDS = "the a small model reads words and learns what comes next".split()

TINY = (
    "--model.n_layer 1 --model.n_head 2 --model.n_embd 8 --model.block_size 16 --optimizer.ema_decay 0.9 "
    "--train.batch_tokens 64 --train.max_steps 2 --train.threads 1 --train.precision fp32 --train.device cpu "
    "--checkpoint.keep_last 1 --checkpoint.save_best false --evaluate.tokens 100 --evaluate.sample_tokens 4 "
    "--schedule.warmup_steps 1"
).split()  # one checkpoint, so that no command can fall back on an earlier one


def command(line: str, *words: str) -> None:
    with suppress(SystemExit):
        main([*line.split(), *words])


def build() -> None:
    """Write everything to the folder `in` of the current folder."""
    rng, texts = random.Random(0), Path("in/texts")
    texts.mkdir(parents=True)
    lines = [" ".join(rng.choices(WORDS, k=6)) + "." for _ in range(300)]
    text = "\n".join(lines).encode()
    rows = "".join(json.dumps({"text": line, "n": i}) + "\n" for i, line in enumerate(lines)).encode()
    (texts / "doc.txt").write_bytes(text)
    (texts / "doc.txt.gz").write_bytes(gzip.compress(text))
    (texts / "doc.txt.bz2").write_bytes(bz2.compress(text))
    (texts / "doc.txt.zst").write_bytes(zstandard.compress(text))
    (texts / "rows.jsonl").write_bytes(rows)
    (texts / "rows.jsonl.zst").write_bytes(zstandard.compress(rows))
    archives.build(texts, lines[:20])
    with suppress(ImportError):
        from pyarrow import parquet, table

        parquet.write_table(table({"text": lines, "n": list(range(len(lines)))}), texts / "rows.parquet")
    exports(texts, lines)
    packages.build(texts, lines)
    command("prepare in/texts/doc.txt --out in/data --tokenizer byte")
    command("prepare in/texts/doc.txt --out in/pairs --tokenizer bpe:300")
    command("train gpt2-nano --data in/data --out in/run", *TINY)
    shutil.copytree("in/run", "in/other", symlinks=True)
    command("export in/run --to space --out in/space")
    command("export in/run --to hf --out in/exported")
    recipe = {"model": {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16}, "train": {"max_steps": 2}}
    Path("in/config.yaml").write_text(yaml.safe_dump(recipe))
    questions = ({"context": line, "choices": ["reads words", "words the"], "answer": 0} for line in lines[:5])
    Path("in/questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    torch.manual_seed(0)
    model = gpt(SMALL)
    hf_folder(Path("in/gpt2"), model)
    weights = Path("in/gpt2/model.safetensors")
    hf_folder(Path("in/split"), model)
    split_weights(Path("in/split"), weights)
    nanogpt(Path("in/nanogpt.pt"), model)
    llmc(Path("in/model.bin"), model)


def exports(folder: Path, lines: list[str]) -> None:
    """Write tables, chats, mail, a notebook and subtitles, which hold `lines`."""
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("n", "text"), *enumerate(lines)])
    telegram = [{"id": 1, "type": "message", "date": "2024-01-01", "from": "Ann", "text": [lines[0], {"text": "b"}]}]
    (folder / "telegram.json").write_text(json.dumps({"name": "a", "type": "personal_chat", "messages": telegram}))
    (folder / "list.json").write_text(json.dumps({"data": [{"text": line} for line in lines[:3]]}))
    slack = {"type": "message", "ts": "1704100001.0001", "user": "U1", "text": lines[0]}
    with zipfile.ZipFile(folder / "slack.zip", "w") as archive:
        archive.writestr("users.json", json.dumps([{"id": "U1", "name": "ann"}]))
        archive.writestr("general/2024-01-01.json", json.dumps([slack]))
    (folder / "whatsapp").write_text("".join(f"31/12/23, 23:59 - Ann: {line}\n" for line in lines))
    cells = [{"cell_type": "code", "source": lines[:1], "outputs": [{}]}, {"cell_type": "markdown", "source": lines[1]}]
    (folder / "notes.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    (folder / "film.srt").write_text(
        "".join(f"{n}\n0:00:{n:02},0 --> 0:00:{n:02},9\n{lines[n]}\n\n" for n in range(60))
    )
    mail = EmailMessage()
    mail["Subject"] = "=?utf-8?Q?a?="
    mail.set_content("\n".join(lines))
    mail.add_alternative("<p>".join(lines), subtype="html")
    (folder / "letter.eml").write_bytes(bytes(mail))
    with closing(mailbox.mbox(folder / "box.mbox")) as box:
        box.add(mail)
        box.add(mail)


def split_weights(folder: Path, weights: Path) -> None:
    """Turn a folder's weights into one of several files with an index, as large models have them."""
    from safetensors import safe_open

    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with safe_open(weights, "pt") as file:
        names = dict.fromkeys(file.keys(), "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
