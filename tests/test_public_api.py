"""Public names of `import groundup`, and its cost."""

import inspect
import logging
import pickle
import re
import subprocess
import sys
import warnings
from operator import attrgetter

import pytest

import groundup
from groundup.api import configure
from groundup.config.merge import RenamedKeyWarning
from groundup.data.shards import Manifest
from groundup.tokenizers.byte_char import ByteTokenizer
from groundup.ui.display import NullDisplay

SMALL = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {"max_steps": 2, "batch_tokens": 64, "device": "cpu", "threads": 1, "precision": "fp32"},
    "schedule": {"warmup_steps": 1},
    "evaluate": {"tokens": 100, "sample_tokens": 4},
}


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "run"
    groundup.train(prepared, folder, preset="gpt2-nano", overrides=SMALL, progress=False)
    return folder


def test_the_public_names_are_these():
    assert len(set(groundup.__all__)) == len(groundup.__all__)
    assert {"prepare", "train", "resume", "evaluate", "generate", "load", "compare"} <= set(groundup.__all__)
    assert {"quickstart", "plan", "load_tokenizer", "GPT", "ModelConfig", "data"} <= set(groundup.__all__)
    for name in groundup.__all__:
        assert getattr(groundup, name) is not None


def test_every_public_function_is_typed_and_documented():
    names = ("prepare", "train", "resume", "evaluate", "evaluate_tasks", "generate", "load", "compare", "plan")
    others = ("generate_stream", "load_tokenizer", "quickstart", "import_model", "export", "push", "data.dataset")
    for name in (*names, *others):
        function = attrgetter(name)(groundup)
        assert inspect.getdoc(function), name
        assert "Raises" in inspect.getdoc(function), f"{name} says what it raises"
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_groundup_imports_no_torch_and_configures_no_logging():
    code = "import groundup, sys, logging; print('torch' in sys.modules, logging.getLogger('groundup').handlers)"
    assert fresh(code).split() == ["False", "[]"]


def test_help_and_mistakes_import_no_torch():
    code = (
        "import sys\nfrom groundup.cli import main\n"
        "for argv in ('--help', 'train --help', 'train --data x --out y --model.n_layer q', 'generate --help',\n"
        "             'compare --help', 'compare nowhere', 'import --help', 'import nothing --out x'):\n"
        "    try: main(argv.split())\n    except SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_the_list_of_commands_needs_no_config():
    code = (
        "import sys\nfrom groundup.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('pydantic' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_functions_stay_functions_after_their_packages_were_imported():
    code = "import groundup.preprocess.pipeline, groundup.comparison.comparison, groundup\n"
    assert fresh(f"{code}print(callable(groundup.prepare), callable(groundup.compare))").split() == ["True", "True"]


def test_parts_for_pytorch_load_torch_only_when_they_need_it():
    code = (
        "import sys, groundup\n"
        "groundup.ModelConfig(n_layer=2), groundup.data\n"
        "print('torch' in sys.modules)\n"
        "groundup.data.dataset\n"
        "print('torch' in sys.modules, issubclass(groundup.GPT, sys.modules['torch'].nn.Module))"
    )
    assert fresh(code).split() == ["False", "True", "True"]


def test_unknown_names_are_attribute_errors():
    assert fresh("import groundup\nprint(hasattr(groundup, 'nonsense'))").strip() == "False"


def test_a_display_of_another_kind_is_refused_before_anything_is_written(prepared, tmp_path):
    class View:
        def step(self, *, step, loss):
            raise AssertionError

    with pytest.warns(RenamedKeyWarning), pytest.raises(groundup.UsageError, match="display: View is no groundup"):
        groundup.train(prepared, tmp_path / "run", view=View())
    assert not (tmp_path / "run").exists()


def test_any_model_is_built_from_its_config():
    config = groundup.ModelConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=9, ngram=2, ngram_rows=50)
    assert type(groundup.build_model(config)).__name__ == "NGramGPT"


def test_previous_names_of_keyword_arguments_are_accepted(prepared, tmp_path):
    small = {
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
        "train": {"max_steps": 2, "batch_tokens": 64, "device": "cpu", "threads": 1},
        "schedule": {"warmup_steps": 1},
    }
    with pytest.warns(RenamedKeyWarning, match=r"train: view= is called display= now"):
        groundup.train(prepared, tmp_path / "a", preset="gpt2-nano", overrides=small, view=NullDisplay())
    with pytest.warns(RenamedKeyWarning, match=r"resume: view= is called display= now"):
        groundup.resume(tmp_path / "a", view=NullDisplay(), overrides={"train": {"max_steps": 3}})
    with pytest.warns(RenamedKeyWarning, match=r"configure: init= is called init_from= now"):
        config = configure(prepared, preset="gpt2-nano", init=tmp_path / "a")
    assert config.init_from.startswith(str(tmp_path / "a"))
    with pytest.warns(RenamedKeyWarning, match=r"train: init= is called init_from= now"):
        groundup.train(
            prepared, tmp_path / "b", preset="gpt2-nano", overrides=small, init=tmp_path / "a", display=NullDisplay()
        )
    assert (tmp_path / "b" / "config.yaml").read_text().count("init_from: ") == 1
    with pytest.warns(RenamedKeyWarning, match=r"overrides: batches\.seed is called train\.seed now"):
        config = configure(prepared, preset="gpt2-nano", overrides={"batches": {"seed": 5}})
    assert config.train.seed == 5


def test_functions_can_be_sent_to_other_processes():
    for name in ("prepare", "train", "compare"):
        assert pickle.loads(pickle.dumps(getattr(groundup, name))) is getattr(groundup, name)


def test_the_keys_needed_most_are_keyword_arguments_and_other_known_names_too(prepared):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = configure(
            prepared, preset="gpt2-nano", overrides={"train": {"max_steps": 9}, "evaluate.every_steps": 7}, epochs=2,
            learning_rate=3e-4, batch_size=3, block_size=32, n_layer=2, n_embd=24, device="cpu", seed=5, dropout=0.25,
        )  # fmt: skip
    assert (found.train.epochs, found.train.max_steps, found.train.seed, found.train.device) == (2, None, 5, "cpu")
    assert (found.model.block_size, found.model.n_layer, found.model.n_embd, found.model.dropout) == (32, 2, 24, 0.25)
    assert (found.optimizer.learning_rate, found.train.batch_tokens, found.evaluate.every_steps) == (3e-4, 96, 7)
    assert configure(prepared, max_time="2m").train.max_time == 120
    with pytest.raises(groundup.ConfigError, match=r"arguments: max_stepss: unknown key; did you mean max_steps\?"):
        groundup.train(prepared, "run", max_stepss=3)


def test_a_run_is_resumed_with_keyword_arguments(run):
    assert groundup.resume(run, max_steps=3, progress=False).step == 3
    with pytest.raises(groundup.ConfigError, match=r"train.seed: cannot change .* start a new run with out="):
        groundup.resume(run, seed=3)


def test_errors_speak_of_arguments(prepared, run):
    with pytest.raises(
        groundup.UsageError, match=rf"resume it with `groundup.resume\('{run}'\)`, or give another out=$"
    ):
        groundup.train(prepared, run)
    with pytest.raises(groundup.DataError, match=r"by `groundup.prepare`|name the prepared folder with data=$"):
        groundup.evaluate(run, data="nowhere")


def test_objects_are_shown_in_one_line_and_as_tables(prepared, run):
    plan = groundup.plan(prepared, "gpt2-nano", max_steps=2, device="cpu")
    comparison, loaded, manifest = groundup.compare([run]), groundup.load(run), Manifest.load(prepared)
    result = groundup.resume(run, progress=False)
    for thing in (comparison, loaded, plan, manifest, result):
        assert repr(thing).startswith(type(thing).__name__.removeprefix("Printed") + "(")
        assert len(repr(thing)) < 120 + len(str(run))
        assert "\n" not in repr(thing)
    tokens = {name: f"{split.tokens:,}" for name, split in manifest.splits.items()}
    assert str(manifest) == f"Manifest(train {tokens['train']} tokens, val {tokens['val']} tokens; byte with 257 ids)"
    assert repr(result) == f"TrainResult({run}: step {result.step})", "a finished run is not evaluated again"
    assert f"context 16, byte with 257 ids, {loaded.device}" in repr(loaded)
    lowest = f"{min(point.val_loss for point in comparison.runs[0].points):.4f}"
    for shown in (repr(comparison), str(comparison), comparison._repr_html_()):
        assert lowest in shown
    assert f"{plan.parameters:,} parameters" in repr(plan)
    assert "<td" in plan._repr_html_()
    assert str(plan).splitlines()[0].startswith("model ")
    assert not [line for line in str(plan).splitlines() if " --" in line]


def test_a_stream_takes_what_generate_takes(run):
    loaded = groundup.load(run)
    (text,) = groundup.generate(run, "The", max_tokens=9, temperature=0.5, top_k=9, seed=4)
    options = {"max_tokens": 9, "temperature": 0.5, "top_k": 9, "seed": 4}
    for streamed in (
        groundup.generate_stream(str(run), "The", **options),
        groundup.generate_stream(loaded, "The", **options),
        groundup.generate_stream(loaded, "The", groundup.Sampler(0.5, 9, seed=4), max_tokens=9),
    ):
        assert "The" + "".join(piece for (piece,) in streamed) == text


def test_tokenizers_are_loaded_from_wherever_they_are(prepared, run):
    for source in (prepared, run, run / "latest", "byte"):
        assert groundup.load_tokenizer(source).fingerprint == ByteTokenizer().fingerprint
        assert repr(groundup.load_tokenizer(source)) == "ByteTokenizer(byte, 257 ids)"
    with pytest.raises(groundup.TokenizerError, match="bpe:300: is trained on a text first"):
        groundup.load_tokenizer("bpe:300")


def test_progress_is_shown_unless_it_is_switched_off_or_logged(prepared, tmp_path, capsys, caplog):
    def lines(name, **options):
        groundup.train(prepared, tmp_path / name, preset="gpt2-nano", overrides=SMALL, **options)
        captured = capsys.readouterr()
        assert captured.out == ""
        return re.findall(r"^step (\S+) \|", captured.err, re.MULTILINE)

    assert lines("a") == ["1/2", "2/2", "2"]
    assert lines("b", progress=False) == []
    assert caplog.records == []
    with caplog.at_level(logging.INFO, "groundup"):
        assert lines("c") == []
    assert "step 2/2" in caplog.text


def test_quickstart_asks_what_to_do_with_an_existing_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(groundup.UsageError, match="resume: there is no run in runs/book"):
        groundup.quickstart("book.txt", resume=True)
    with pytest.raises(groundup.UsageError, match=r"minutes 0: must be more than 0"):
        groundup.quickstart("book.txt", minutes=0)
    with pytest.raises(groundup.CheckpointError, match="give another out="):
        groundup.quickstart("book.txt", run)
