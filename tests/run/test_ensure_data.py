"""A run that prepares its own text, and recipes: files that name their preset and their size for a laptop."""

import shlex

import pytest

import groundup
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli import main
from groundup.cli.parsing import Parser, normalise
from groundup.cli.prepare import add_arguments
from groundup.config.merge import ConfigSource
from groundup.config.schema import Config
from groundup.config.sections import PrepareConfig
from groundup.errors import ConfigError, DataError, GroundupError, UsageError
from groundup.run.compose import compose_config
from groundup.run.ensure_data import ensure_prepared, needs_preparation, plan_without_data, prepare_command

SMALL = {
    "model": {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16},
    "train": {"max_steps": 2, "batch_tokens": 64, "device": "cpu", "threads": 1, "precision": "fp32"},
    "evaluate": {"tokens": 200, "sample_tokens": 3},
}
RECIPE = """
preset: gpt2-mini
data: data/book
prepare: {sources: [book.txt], tokenizer: char, val_fraction: 0.2}
train: {max_steps: 7, batch_tokens: 1024}
laptop:
  preset: gpt2-nano
  train: {max_tokens: 640, batch_tokens: 64}
"""


@pytest.fixture
def place(tmp_path, monkeypatch, sentences):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(sentences(200))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def recipe(*, laptop=False, preset=None, **options):
    return compose_config(preset, ["recipe.yaml"], ConfigSource("options", options), laptop=laptop)


def nothing(done):
    pass


def test_a_recipe_names_its_preset_and_its_laptop_size(place):
    name, config = recipe()
    assert (name, config.model.n_layer, config.train.max_steps) == ("gpt2-mini", 6, 7)
    name, config = recipe(laptop=True)
    assert (name, config.model.n_layer, config.train.max_tokens, config.train.max_steps) == ("gpt2-nano", 3, 640, None)
    assert config.prepare.sources == ("book.txt",)  # what it does not change stays
    name, config = recipe(laptop=True, preset="gpt2-micro", train={"max_steps": 9, "batch_tokens": 128})
    assert (name, config.model.n_layer, config.train.max_steps) == ("gpt2-micro", 4, 9)


def test_a_later_file_has_the_last_word(place):
    (place / "mine.yaml").write_text("train: {max_steps: 5}")
    _, config = compose_config(None, ["recipe.yaml", "mine.yaml"], ConfigSource("options", {}), laptop=True)
    assert config.train.max_steps == 5
    (place / "empty.yaml").write_text("laptop: {}")
    compose_config(None, ["empty.yaml"], ConfigSource("options", {}), laptop=True)


@pytest.mark.parametrize(
    ("text", "laptop", "said"),
    [
        ("train: {max_steps: 1}", True, "--laptop: no --config file has a section `laptop:`"),
        ("prepare: {sources: 3}", False, "prepare.sources: 3 is not a list"),
        ("laptop: 3", False, "recipe.yaml: laptop: 3 is not a mapping of sections"),
        ("preset: [gpt2]", False, r"recipe.yaml: preset: \['gpt2'\] is not text"),
        ("preset: gtp2", False, "did you mean gpt2"),
        ("laptop: {trian: {max_steps: 1}}", True, "recipe.yaml, laptop: trian: unknown key"),
        ("prepare: {source: [a.txt]}", False, "prepare.source: unknown key; did you mean sources"),
        ("prepare: {val_fraction: 0.9}", False, "prepare.val_fraction: 0.9 is out of range"),
    ],
)
def test_a_recipe_with_a_mistake_is_one_sentence(place, text, laptop, said):
    (place / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        recipe(laptop=laptop)


def test_a_run_prepares_what_is_not_there(place):
    options = SMALL | {"prepare": {"sources": ["book.txt"], "tokenizer": "char", "val_fraction": 0.2}}
    groundup.train("data/book", "runs/a", overrides=options)
    manifest = (place / "data/book/manifest.json").read_text()
    assert '"char"' in manifest
    assert '"val_fraction": 0.2' in manifest
    groundup.train("data/book", "runs/b", overrides=options)  # what is there is taken
    for key, value in (("tokenizer", "byte"), ("val_fraction", 0.1), ("clean", "lowercase"), ("max_tokens", 9)):
        other = options | {"prepare": options["prepare"] | {key: value}}
        with pytest.raises(ConfigError, match=rf"data/book was prepared with {key} .*, and prepare.{key} is "):
            groundup.train("data/book", "runs/c", overrides=other)
    options["prepare"] = {"sources": "", "tokenizer": "byte"}
    groundup.train("data/book", "runs/c", overrides=options)  # as it is
    assert (place / "data/book/manifest.json").read_text() == manifest


def test_a_tokenizer_that_lies_in_a_file_is_the_same_the_second_time(place):
    groundup.prepare(["book.txt"], "data/first", tokenizer="bpe:300")
    _, config = recipe(prepare={"tokenizer": "data/first/tokenizer/tokenizer.json"})
    for _ in range(2):
        ensure_prepared(config, place / "run", nothing)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate": {"tasks": ["nosuch"]}}, "evaluate.tasks"),
        ({"train": {"compile": "nosuch"}}, "train.compile"),
        ({"prepare": {"tokenizer": "bppe:300"}}, "unknown tokenizer"),
        ({"train": {"max_steps": None}}, "no horizon"),
    ],
)
def test_a_mistake_is_found_before_anything_is_prepared(place, changes, said):
    _, config = recipe(**changes)
    for found in (lambda: ensure_prepared(config, place / "run", nothing), lambda: plan_without_data(config)):
        with pytest.raises(GroundupError, match=said):
            found()
    assert not (place / "data").exists()


def test_a_run_whose_data_are_gone_says_how_to_make_them(place):
    groundup.train("data/book", "run", overrides=SMALL | {"prepare": {"sources": ["book.txt"], "tokenizer": "char"}})
    (place / "data").rename(place / "moved")
    with pytest.raises(DataError, match=r"prepare it by: groundup prepare book.txt --out data/book --tokenizer char"):
        groundup.resume("run", overrides={"train": {"max_steps": 3}})
    with pytest.raises(UsageError, match="holds a run already"):
        ensure_prepared(RunFolder(place / "run").config(), place / "run", nothing)
    ensure_prepared(RunFolder(place / "run").config(), place / "run", nothing, goes_on=True)
    assert groundup.resume("run", overrides={"train": {"max_steps": 3}}).step == 3


def test_the_plan_of_a_recipe_needs_no_data(place, capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", "--config", "recipe.yaml", "--laptop"])
    assert end.value.code == 0
    assert "vocabulary 256: assumed, data not prepared yet" in capsys.readouterr().out


def test_the_command_line_does_the_same(place, capsys):
    words = ["train", "--config", "recipe.yaml", "--out", "run", "--laptop", "--train.max_steps", "1"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--dry-run"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "not prepared yet, vocabulary assumed; training would begin with: groundup prepare book.txt" in said
    assert not (place / "data").exists()
    small = ["--evaluate.tokens", "200", "--evaluate.sample_tokens", "0", "--train.device", "cpu"]
    with pytest.raises(SystemExit) as end:
        main([*words, *small])
    assert end.value.code == 0
    assert (place / "data/book/manifest.json").exists()
    said = capsys.readouterr().out
    assert "start    loss" in said
    (place / "data").rename(place / "moved")
    with pytest.raises(SystemExit) as end:
        main([*words, *small])  # a run that is there already is found before anything is prepared
    assert end.value.code == 2
    assert "holds a run already" in capsys.readouterr().err
    assert not (place / "data").exists()


def test_nothing_is_prepared_for_a_model_that_cannot_fit(place):
    _, config = recipe(model={"n_layer": 4000, "n_embd": 9600, "n_head": 1})
    with pytest.raises(ConfigError, match=r"take a smaller model: --model.n_layer 36 .* fits"):
        ensure_prepared(config, place / "run", nothing)
    assert not (place / "data").exists()


def test_one_of_several_processes_does_not_keep_the_others_waiting(place):
    _, config = recipe()
    with pytest.raises(UsageError, match=r"groundup prepare book.txt --out data/book --tokenizer char --val"):
        ensure_prepared(config, place / "run", nothing, processes=2)
    ensure_prepared(config, place / "run", nothing)
    ensure_prepared(config, place / "run", nothing, processes=2)
    assert not needs_preparation(config)


def test_the_command_that_is_named_asks_for_the_same(place):
    prepare = PrepareConfig(
        sources=("a b.txt", "c"), tokenizer="bpe:300:pad", column="body", clean="lowercase", val_fraction=0.25,
        max_tokens=1000, max_documents=9,
    )  # fmt: skip
    words = shlex.split(prepare_command(Config(data="data/x", prepare=prepare)))
    parser = Parser()
    add_arguments(parser)
    found = vars(parser.parse_args(normalise(words[2:])))
    assert {name: found[name] for name in PrepareConfig.model_fields} == prepare.model_dump() | {
        "sources": list(prepare.sources)
    }
    assert found["out"] == "data/x"


@pytest.mark.parametrize(("tokenizer", "ids"), [("gpt2", 50_257), ("bpe:1000:pad", 1000), ("char", 256)])
def test_a_plan_before_there_is_a_text_takes_the_vocabulary_that_is_known(place, tokenizer, ids):
    _, config = recipe(laptop=True, prepare={"tokenizer": tokenizer})
    assert plan_without_data(config)[0].config.model.vocab == ids
