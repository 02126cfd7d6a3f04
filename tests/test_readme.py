"""Every command and every line of Python in the documents runs, in order."""

import json
import re
import shlex
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from groundup.cli import COMMANDS
from groundup.cli.parsing import Parser, normalise
from groundup.config.aliases import ADVICE_FOR, ALIASES, ALIASES_IN_SECTIONS
from groundup.sources.catalog import CORPORA
from groundup.sources.hub import is_hub_name, parse_spec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXECUTED = ("README.md", "docs/data.md", "docs/training.md", "docs/cluster.md", "docs/evaluation.md")
QUOTED = (*EXECUTED, "docs/first-model.md", "docs/faq.md", "docs/exchange.md", "docs/serving.md", "docs/recipes.md")
WRITTEN = ("README.md", "docs/README.md", "docs/first-model.md", "docs/faq.md", "docs/other-trainers.md",
    "CONTRIBUTING.md", "docs/guide.md", "docs/data.md", "docs/training.md",
    "docs/cluster.md", "docs/evaluation.md", "docs/exchange.md", "docs/serving.md", "docs/tracking.md",
    "docs/reliability.md", "docs/performance.md", "docs/recipes.md", "bench/README.md",
)  # fmt: skip

# Prefixes of a groundup command.
LAUNCHED = r"(?:\.venv/bin/|torchrun .*-m )?groundup|bash \S+two-nodes\.sh \d \S+|sbatch .*\.sbatch"

# The same commands, made small enough for a test.
SHRINK = {
    "quickstart": "--minutes 0.03",
    "train": "--train.max_steps 3 --evaluate.tokens 300 --evaluate.sample_tokens 4 --train.device cpu",
    "resume": "--train.max_steps 4",
    "generate": "--max_tokens 4",
    "tune": "--steps 8 --train.device cpu --evaluate.tokens 300",
}


def blocks(language: str, document: str = "README.md") -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_it_has_at_most_two_hundred_and_fifty_lines():
    assert len(README.splitlines()) <= 250


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\(([\w-]+\.md)", index))) == sorted(
        path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"
    )


@pytest.fixture
def texts(tmp_path, sentences):
    """Texts that the documents mention."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    (tmp_path / "book.txt").write_text("Once upon a time.\n" + sentences(2000))
    (tmp_path / "my-texts").mkdir()
    (tmp_path / "my-texts" / "a.md").write_text(sentences(1000, seed=1))
    rows = [sentences(5, seed=seed) for seed in range(300)]
    pq.write_table(pa.table({"id": range(300), "body": rows}), tmp_path / "dump.parquet")
    lines = "".join(json.dumps({"body": row}) + "\n" for row in rows)
    (tmp_path / "dump.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.html").write_text(f"<p>{sentences(300, seed=2)}</p>")
    shutil.make_archive(str(tmp_path / "letters"), "zip", tmp_path / "my-texts")
    (tmp_path / "stories.txt").write_text("<|endoftext|>".join(rows))
    write_epub(tmp_path / "novel.epub", sentences(300, seed=3))
    return tmp_path


def write_epub(path: Path, text: str) -> None:
    from ebooklib import epub

    book, chapter = epub.EpubBook(), epub.EpubHtml(title="1", file_name="1.xhtml", content=f"<p>{text}</p>")
    book.add_item(chapter)
    book.spine = [chapter]
    epub.write_epub(path, book)


@pytest.mark.slow
@pytest.mark.parametrize("document", EXECUTED)
def test_its_commands_run(document, texts, forks):
    commands = [line for block in blocks("sh", document) for line in block.splitlines()]
    assert len(commands) >= 2
    for line in commands:
        line = re.sub(r"--(train\.(max_time|max_steps)|minutes) \S+", "", line)
        for name, options in SHRINK.items():
            line = re.sub(rf"(groundup {name} .*)", rf"\1 {options}", line)
        line = line.replace("groundup ", f"{shlex.join(forks.words)} -m groundup ", 1)
        done = subprocess.run(line, shell=True, cwd=texts, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("document", QUOTED)
def test_indented_commands_have_valid_options(document):
    """Indented commands need a network or minutes: only their options and corpus names are checked."""
    text = (ROOT / document).read_text(encoding="utf-8")
    text = text.replace("\\\n", " ")
    for line in re.findall(rf"^ {{4}}(?:{LAUNCHED}) (.+)$", text, flags=re.MULTILINE):
        name, *words = shlex.split(line)
        command = import_module(f"groundup.cli.{COMMANDS[name][0]}")
        parser = Parser(prog=f"groundup {name}")
        command.add_arguments(parser)
        for source in getattr(parser.parse_args(normalise(words)), "sources", []):
            assert source in CORPORA or is_hub_name(source)
            assert not is_hub_name(source) or parse_spec(source)


@pytest.mark.parametrize("document", WRITTEN)
def test_its_links_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), target


@pytest.mark.slow
def test_its_annex_names_existing_options():
    annex = (ROOT / "docs/other-trainers.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in annex.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    known = {"--nproc-per-node"}
    for name in ("train", "generate", "prepare"):
        parser = Parser()
        import_module(f"groundup.cli.{name}").add_arguments(parser)
        known |= {option.replace("_", "-") for option in parser._option_string_actions}
    for theirs, ours in rows:
        for option in re.findall(r"--[a-z][\w.-]*", ours):
            assert option.replace("_", "-") in {*known, "--section.key"}, theirs
        for word in re.findall(r"`(?:--)?([\w.]+)`", theirs):
            assert word in {*ALIASES, *ALIASES_IN_SECTIONS, *ADVICE_FOR} or word in ("gpt2", "resume"), word


def test_its_python_runs(tmp_path, sentences, forks):
    (tmp_path / "book.txt").write_text("Once upon a time.\n" + sentences(1000))
    code = "\n".join([*blocks("python"), *blocks("python", "docs/training.md")])
    assert re.findall(r"max_steps=(\d+)", code) == ["200", "30", "30", "40"]
    code = re.sub(r"max_steps=(\d)\d+", r"max_steps=\1", code)
    code += '\nprint(f"last loss {loss.item():.2f} of a model with {data.vocab_size} ids")\n'
    done = subprocess.run([*forks.words, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Once") == 2
    assert "last loss" in done.stdout
    assert re.search(r"^step 0: loss \d", done.stdout, re.MULTILINE)
    assert "step 2/2 | loss" in done.stderr
