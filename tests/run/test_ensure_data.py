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
def folder(tmp_path, monkeypatch, sentences):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(sentences(200))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def recipe(*, laptop=False, preset=None, **options):
    return compose_config(preset, ["recipe.yaml"], ConfigSource("options", options), laptop=laptop)


def no_progress(done):
    pass


@pytest.mark.parametrize("data", ["to be prepared", "there"])
def test_a_folder_for_checkpoints_that_holds_something_is_refused_before_any_work(data, folder, prepared, monkeypatch):
    (folder / "shared").mkdir()
    (folder / "shared" / "thesis.txt").touch()
    monkeypatch.setattr("groundup.run.ensure_data.prepare", lambda *_, **__: pytest.fail("prepared"))
    monkeypatch.setattr("groundup.run.start.Trainer", lambda *_, **__: pytest.fail("built"))
    sources = {"prepare": {"sources": ["book.txt"]}} if data == "to be prepared" else {}
    with pytest.raises(UsageError, match=r"^checkpoints=shared: holds thesis\.txt already; give a new folder"):
        groundup.train(prepared if data == "there" else data, "run", overrides=SMALL | sources, checkpoints="shared")
    assert not (folder / "run").exists()


def test_a_recipe_names_its_preset_and_its_laptop_size(folder):
    name, config = recipe()
    assert (name, config.model.n_layer, config.train.max_steps) == ("gpt2-mini", 6, 7)
    name, config = recipe(laptop=True)
    assert (name, config.model.n_layer, config.train.max_tokens, config.train.max_steps) == ("gpt2-nano", 3, 640, None)
    assert config.prepare.sources == ("book.txt",)  # unchanged keys stay
    name, config = recipe(laptop=True, preset="gpt2-micro", train={"max_steps": 9, "batch_tokens": 128})
    assert (name, config.model.n_layer, config.train.max_steps) == ("gpt2-micro", 4, 9)


def test_a_later_file_overrides_an_earlier_one(folder):
    (folder / "mine.yaml").write_text("train: {max_steps: 5}")
    _, config = compose_config(None, ["recipe.yaml", "mine.yaml"], ConfigSource("options", {}), laptop=True)
    assert config.train.max_steps == 5
    (folder / "empty.yaml").write_text("laptop: {}")
    compose_config(None, ["empty.yaml"], ConfigSource("options", {}), laptop=True)


@pytest.mark.parametrize(
    ("text", "laptop", "sentence"),
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
def test_a_recipe_with_a_mistake_is_one_sentence(folder, text, laptop, sentence):
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        recipe(laptop=laptop)


def test_a_run_prepares_missing_data(folder):
    options = SMALL | {"prepare": {"sources": ["book.txt"], "tokenizer": "char", "val_fraction": 0.2}}
    groundup.train("data/book", "runs/a", overrides=options)
    manifest = (folder / "data/book/manifest.json").read_text()
    assert '"char"' in manifest
    assert '"val_fraction": 0.2' in manifest
    groundup.train("data/book", "runs/b", overrides=options)  # existing data is used
    for key, value in (("tokenizer", "byte"), ("val_fraction", 0.1), ("clean", "lowercase"), ("max_tokens", 9)):
        other = options | {"prepare": options["prepare"] | {key: value}}
        with pytest.raises(ConfigError, match=rf"data/book was prepared with {key} .*, and prepare.{key} is "):
            groundup.train("data/book", "runs/c", overrides=other)
    options["prepare"] = {"sources": "", "tokenizer": "byte"}
    groundup.train("data/book", "runs/c", overrides=options)  # unchanged
    assert (folder / "data/book/manifest.json").read_text() == manifest


def test_a_tokenizer_from_a_file_matches_the_second_time(folder):
    groundup.prepare(["book.txt"], "data/first", tokenizer="bpe:300")
    _, config = recipe(prepare={"tokenizer": "data/first/tokenizer/tokenizer.json"})
    for _ in range(2):
        ensure_prepared(config, folder / "run", no_progress)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"evaluate": {"tasks": ["nosuch"]}}, "evaluate.tasks"),
        ({"train": {"compile": "nosuch"}}, "train.compile"),
        ({"prepare": {"tokenizer": "bppe:300"}}, "unknown tokenizer"),
        ({"train": {"max_steps": None}}, "no run length"),
    ],
)
def test_a_mistake_is_found_before_anything_is_prepared(folder, changes, sentence):
    _, config = recipe(**changes)
    for found in (lambda: ensure_prepared(config, folder / "run", no_progress), lambda: plan_without_data(config)):
        with pytest.raises(GroundupError, match=sentence):
            found()
    assert not (folder / "data").exists()


def test_without_the_hub_a_recipe_names_the_option_that_takes_other_text(folder, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the extra `data`")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    _, config = recipe(prepare={"sources": ["openwebtext-10k"]})
    with pytest.raises(DataError, match=r"give the files of its cache with --prepare\.sources FILE$"):
        ensure_prepared(config, folder / "run", no_progress)


def test_an_error_of_the_text_names_the_options_of_this_command(folder):
    (folder / "book.txt").write_bytes(b"caf\xe9 " * 100)
    (folder / "rows.jsonl").write_text('{"body": "a"}\n')
    (folder / "package.json").write_text('{\n "name": 1\n}')
    for source, remedy in {
        "book.txt": r"add --prepare\.encoding cp1252, or .* with groundup prepare --errors replace$",
        "rows.jsonl": r"fields are 'body': choose one with --prepare\.column$",
        "package.json": r"or add --prepare\.read_as text, to read the JSON itself as a text$",
    }.items():
        _, config = recipe(prepare={"sources": [source], "tokenizer": "byte"})
        with pytest.raises(DataError, match=remedy):
            ensure_prepared(config, folder / "run", no_progress)


def test_a_run_whose_data_is_missing_names_the_command_that_prepares_it(folder):
    groundup.train("data/book", "run", overrides=SMALL | {"prepare": {"sources": ["book.txt"], "tokenizer": "char"}})
    (folder / "data").rename(folder / "moved")
    with pytest.raises(DataError, match=r"prepare it by: groundup prepare book.txt --out data/book --tokenizer char"):
        groundup.resume("run", overrides={"train": {"max_steps": 3}})
    with pytest.raises(UsageError, match="holds a run already"):
        ensure_prepared(RunFolder(folder / "run").config(), folder / "run", no_progress)
    ensure_prepared(RunFolder(folder / "run").config(), folder / "run", no_progress, may_resume=True)
    assert groundup.resume("run", overrides={"train": {"max_steps": 3}}).step == 3


def test_the_plan_of_a_recipe_needs_no_data(folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", "--config", "recipe.yaml", "--laptop"])
    assert end.value.code == 0
    assert "vocabulary 256: assumed, data not prepared yet" in capsys.readouterr().out


def test_the_command_line_prepares_missing_data_too(folder, capsys):
    words = ["train", "--config", "recipe.yaml", "--out", "run", "--laptop", "--train.max_steps", "1"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--dry-run"])
    output = capsys.readouterr().out
    assert end.value.code == 0
    assert "not prepared yet, vocabulary assumed; training would start with: groundup prepare book.txt" in output
    assert not (folder / "data").exists()
    small = ["--evaluate.tokens", "200", "--evaluate.sample_tokens", "0", "--train.device", "cpu"]
    with pytest.raises(SystemExit) as end:
        main([*words, *small])
    assert end.value.code == 0
    assert (folder / "data/book/manifest.json").exists()
    output = capsys.readouterr().out
    assert "start    first loss" in output
    (folder / "data").rename(folder / "moved")
    with pytest.raises(SystemExit) as end:
        main([*words, *small])  # an existing run is found before anything is prepared
    assert end.value.code == 2
    assert "holds a run already" in capsys.readouterr().err
    assert not (folder / "data").exists()


def test_nothing_is_prepared_for_a_model_that_cannot_fit(folder):
    _, config = recipe(model={"n_layer": 4000, "n_embd": 9600, "n_head": 1})
    with pytest.raises(ConfigError, match=r"take a smaller model: --model.n_layer 36 .* fits"):
        ensure_prepared(config, folder / "run", no_progress)
    assert not (folder / "data").exists()


def test_with_several_processes_the_data_must_be_prepared_before(folder):
    _, config = recipe()
    with pytest.raises(UsageError, match=r"groundup prepare book.txt --out data/book --tokenizer char --val"):
        ensure_prepared(config, folder / "run", no_progress, processes=2)
    ensure_prepared(config, folder / "run", no_progress)
    ensure_prepared(config, folder / "run", no_progress, processes=2)
    assert not needs_preparation(config)


@pytest.mark.parametrize("tokenizer", ["bpe:300:pad", "gpt2", "auto"])  # two defaults, of a config and of the command
def test_the_named_command_prepares_the_same_data(tokenizer, folder):
    prepare = PrepareConfig(
        sources=("a b.txt", "c"), tokenizer=tokenizer, column="body", clean="lowercase", val_fraction=0.25,
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
def test_a_plan_without_data_uses_the_known_vocabulary_size(folder, tokenizer, ids):
    _, config = recipe(laptop=True, prepare={"tokenizer": tokenizer})
    assert plan_without_data(config)[0].config.model.vocab == ids
