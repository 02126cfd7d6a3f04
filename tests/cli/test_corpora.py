"""The table of corpora that have a name."""

import json
import subprocess
import sys

from groundup.sources.catalog import CORPORA


def test_the_table_has_a_command_for_every_corpus(groundup):
    done = groundup("corpora")
    assert done.status == 0
    for name, corpus in CORPORA.items():
        assert f"  groundup prepare {name} --out data/{name}" in done.out
        assert f"licence {corpus.licence}\n" in done.out
    assert "  groundup prepare shakespeare --out data/shakespeare\n  train modern-micro --train.epochs 8: " in done.out
    assert "data/tinystories --tokenizer bpe:4096\n" in done.out
    assert "data/openwebtext --tokenizer gpt2\n  train gpt2: about 6 h on an H100\n" in done.out
    assert "8,013,769 documents, 9,040,017,095 GPT-2 tokens" in done.out
    assert "~473,000,000 GPT-2 tokens" in done.out  # extrapolated: no more digits than that is worth
    assert max(map(len, done.out.splitlines())) <= 180


def test_json_says_the_same_and_where_it_comes_from(groundup):
    done = groundup("corpora", "--json")
    rows = {row["name"]: row for row in json.loads(done.out)["corpora"]}
    assert list(rows) == list(CORPORA)
    assert rows["openwebtext"]["gpt2_tokens"] == 9_035_582_198 + 4_434_897
    assert "nanoGPT" in rows["openwebtext"]["figures"]
    assert rows["fineweb-edu-10bt"]["seconds"] is None  # no size is known, so no time is claimed
    assert rows["tinystories"]["seconds"] == round(991e6 / 12.5e6 + rows["tinystories"]["gpt2_tokens"] / 3e6)
    assert all(row["figures"] != "?" for row in rows.values())


def test_the_table_needs_neither_torch_nor_the_hub():
    code = (
        "import sys; from groundup.cli import run; run(['corpora', '--json']); "
        "print(sorted({'torch', 'datasets', 'huggingface_hub', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
