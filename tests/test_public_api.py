"""Public names of `import groundup`, and its cost."""

import inspect
import subprocess
import sys
from operator import attrgetter

import pytest

import groundup
from groundup.api import configure
from groundup.config.merge import RenamedKeyWarning
from groundup.ui.display import NullDisplay


def test_the_public_names_are_these():
    assert len(set(groundup.__all__)) == len(groundup.__all__)
    assert {"prepare", "train", "resume", "evaluate", "generate", "load", "compare"} <= set(groundup.__all__)
    assert {"GPT", "ModelConfig", "data"} <= set(groundup.__all__)
    for name in groundup.__all__:
        assert getattr(groundup, name) is not None


def test_every_public_function_is_typed_and_documented():
    names = ("prepare", "train", "resume", "evaluate", "evaluate_tasks", "generate", "load", "compare")
    for name in (*names, "import_model", "export", "push", "data.dataset"):
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
