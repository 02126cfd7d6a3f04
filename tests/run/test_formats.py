"""Runs, data and configs of earlier versions: they resume, generate, evaluate, compare and export as before.

`tests/fixtures/make.py` and `make_old_names.py` wrote them; `old-names` has the previous names of all config keys.
"""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import groundup
from groundup.api import configure
from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.merge import RenamedKeyWarning, flatten
from groundup.config.renamed import RENAMED_KEYS, rename_keys
from groundup.data.shards import Tokens
from groundup.data.windows import ShuffledWindows
from groundup.diagnostics.run_checks import check_run
from groundup.diagnostics.step_documents import trace_step
from groundup.ui.display import PlainDisplay
from groundup.utils.files import sha256

FIXTURES = Path(__file__).parents[1] / "fixtures"
FORMATS = sorted(FIXTURES.glob("format-*"))
EXPECTED = json.loads((FIXTURES / "old-names" / "expected.json").read_text(encoding="utf-8"))
RUNS = EXPECTED["runs"]
TOLERANCE = 1e-4  # nats per token, on another CPU or with another torch


def copied(fixture: Path, folder: Path, monkeypatch) -> Path:
    shutil.copytree(fixture, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def old(request, tmp_path, monkeypatch):
    return copied(request.param, tmp_path / "old", monkeypatch)


def step_losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_log(run / "log.jsonl") if record["event"] == "step"]


def test_an_old_run_resumes_with_the_losses_of_its_version(old):
    lines: list[str] = []
    shown = PlainDisplay(lines.append)
    assert groundup.resume("run", overrides={"train": {"max_steps": 20}}, display=shown).step == 20
    assert not [line for line in lines if line.startswith("changed")], "nothing is known to have changed"
    expected = json.loads((old / "losses.json").read_text())
    assert step_losses(old / "run") == pytest.approx(expected, abs=TOLERANCE)
    checkpoints = sorted((old / "run" / "checkpoints").iterdir())
    assert json.loads((checkpoints[-1] / "progress.json").read_text())["sequence_layout"] == 1
    ids = [window.start for window in trace_step(old / "run", 20).windows]
    config, tokens = RunFolder(old / "run").config(), Tokens.open(old / "data", "train")
    sequences = ShuffledWindows(tokens, config.model.block_size, config.train.seed, layout=1)
    assert ids == sequences.window_starts(19 * config.batch_size, config.batch_size).tolist()


def test_an_old_run_has_no_damage_after_a_resume_either(old):
    groundup.resume("run", overrides={"train": {"max_steps": 14}})
    text = (old / "run" / "config.yaml").read_text()
    (old / "run" / "config.yaml").write_text(text.replace("max_steps: 14", "max_steps: 16"))  # as if it was killed
    assert groundup.resume("run").step == 16
    findings = check_run(old / "run")
    assert all("environment" in str(problem) for problem in findings.problems)


def test_an_old_run_generates_and_is_evaluated(old):
    assert groundup.generate("run", "The", max_tokens=5)[0].startswith("The")
    assert 0 < groundup.evaluate("run").loss < 5


def test_an_old_run_has_no_damage(old):
    findings = check_run(old / "run")
    assert all("environment" in str(problem) for problem in findings.problems)


@pytest.fixture
def old_names(tmp_path, monkeypatch):
    """The folder of runs with the previous names, torch with one thread, and no warning of a renamed key."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RenamedKeyWarning)
        yield copied(FIXTURES / "old-names", tmp_path / "old", monkeypatch)
    torch.use_deterministic_algorithms(False)  # which run-all requires
    torch.set_num_threads(threads)


def rounding() -> str:
    """A digest that is equal on machines whose torch rounds alike."""
    torch.manual_seed(0)
    x = torch.randn(67, 67, requires_grad=True)
    y = torch.nn.functional.gelu((x @ x).softmax(-1) @ x).exp().sum(0).logsumexp(0)
    y.backward()
    return hashlib.sha256(torch.cat([y.view(1), x.grad.flatten()]).detach().numpy().tobytes()).hexdigest()


def rounds_alike() -> bool:
    """Whether this machine and its torch round like those that wrote expected.json."""
    made_with = EXPECTED["made_with"]
    return (torch.__version__.partition("+")[0], rounding()) == (made_with["torch"], made_with["rounding"])


def assert_describes(run: str, expected: dict) -> None:
    """The run's loss and its greedy text are those of `expected`."""
    found = groundup.evaluate(run, device="cpu")
    assert found.tokens == expected["tokens"]
    assert found.loss == pytest.approx(expected["loss"], abs=TOLERANCE)
    assert found.bits_per_byte == pytest.approx(expected["bits_per_byte"], abs=TOLERANCE)
    text = groundup.generate(run, EXPECTED["prompt"], temperature=0, max_tokens=EXPECTED["max_tokens"], device="cpu")
    assert text == [expected["text"]]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_with_previous_names_resumes_as_its_version_did(name, old_names):
    expected, run = RUNS[name], old_names / name
    assert_describes(name, expected["at_first"])
    logged = len(step_losses(run))
    result = groundup.resume(name, overrides={**expected["overrides"], "tracking": {"backends": []}})
    assert result.step == expected["to_step"]
    losses = step_losses(run)
    assert losses[logged:] == pytest.approx(expected["losses"], abs=TOLERANCE)
    assert losses == pytest.approx(expected["losses_logged"], abs=TOLERANCE)
    assert_describes(name, expected["in_the_end"])
    if rounds_alike():
        assert losses[logged:] == expected["losses"]
        assert sha256(result.checkpoint / "model.safetensors") == expected["weights_sha256"]
        average = result.checkpoint / "average.safetensors"
        assert (sha256(average) if average.exists() else None) == expected["average_sha256"]


def test_runs_with_previous_names_are_compared(old_names):
    found = groundup.compare(list(RUNS))
    assert [Path(run.path).name for run in found.runs] == list(RUNS)


@pytest.mark.parametrize("name", ["run-budget", "run-fsdp", "run-killed"])
def test_a_run_with_previous_names_is_exported(name, old_names):
    groundup.export(name, "exported")
    assert (old_names / "exported" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_with_previous_names_has_no_damage(name, old_names):
    assert all("environment" in str(problem) for problem in check_run(old_names / name).problems)


@pytest.mark.parametrize("laptop", [False, True])
def test_a_config_file_with_previous_names_means_the_same(laptop, old_names):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RenamedKeyWarning)
        config = configure("data-all", files=["config-old.yaml"], laptop=laptop)
    expected, _ = rename_keys(EXPECTED["config"]["laptop" if laptop else "plain"])
    found, wanted = dict(flatten(config.model_dump(mode="json"))), dict(flatten(expected))
    assert {key: found[key] for key in wanted} == wanted
    assert {found[key] for key in found.keys() - wanted.keys()} <= {None}  # keys that came later are off
    messages = [str(warning.message) for warning in caught if issubclass(warning.category, RenamedKeyWarning)]
    named = sorted(message.partition(": ")[2].partition(" is called ")[0] for message in messages)
    of_laptop = ["batches.micro_batch", "tracking.to", "train.activation_checkpointing blocks"] if laptop else []
    assert named == sorted([*RENAMED_KEYS.keys() - {"prepare.as"}, "train.activation_checkpointing off", *of_laptop])


def test_previous_values_of_activation_checkpointing_mean_the_same(old_names):
    previous = {"True": True, "False": False}
    for given, meant in EXPECTED["config"]["activation_checkpointing"].items():
        overrides = {"train": {"activation_checkpointing": previous.get(given, given)}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RenamedKeyWarning)
            config = configure("data-all", files=["config-old.yaml"], overrides=overrides)
        expected, _ = rename_keys({"train": {"activation_checkpointing": meant}})
        assert config.train.activation_checkpointing == expected["train"]["activation_checkpointing"]


def test_a_config_file_with_previous_names_trains_the_same(old_names, monkeypatch):
    def previous_layout(tokens, block_size, seed, layout):
        return ShuffledWindows(tokens, block_size, seed, 1)

    monkeypatch.setattr("groundup.run.trainer.ShuffledWindows", previous_layout)  # which a new run no longer has
    expected = EXPECTED["config"]["trained"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedKeyWarning)
        result = groundup.train("data-all", "by-config", files=["config-old.yaml"], laptop=True)
    losses = step_losses(old_names / "by-config")
    assert losses == pytest.approx(expected["losses"], abs=TOLERANCE)
    if rounds_alike():
        assert losses == expected["losses"]
        assert sha256(result.checkpoint / "model.safetensors") == expected["weights_sha256"]


# Those of the earlier version, in its order.
SETTINGS = (
    *("tokenizer", "fingerprint", "column", "errors", "val_fraction", "max_tokens", "max_documents", "clean"),
    *("shard_tokens", "split"),
)


def test_an_unfinished_preparation_of_an_earlier_version_is_finished_or_refused(old_names, monkeypatch):
    expected = EXPECTED["half"]
    monkeypatch.chdir(old_names / "data-half")
    for name in expected["sources"]:
        os.utime(name, ns=(EXPECTED["mtime_ns"], EXPECTED["mtime_ns"]))
    Path(expected["rename"][0]).rename(expected["rename"][1])
    refusal = ""
    try:
        groundup.prepare(expected["sources"], expected["out"], tokenizer=expected["tokenizer"])
    except groundup.GroundupError as error:
        refusal = str(error)
        shutil.rmtree(expected["rename"][1])
        groundup.prepare(expected["sources"], expected["out"], tokenizer=expected["tokenizer"])
    assert "\n" not in refusal
    folder = Path(expected["out"])
    request = json.loads((folder / "request.json").read_text())
    settings = {key: request["settings"].pop(key) for key in SETTINGS}
    assert set(request["settings"].values()) == {None}  # those that came later
    (folder / "request.json").write_text(json.dumps(request | {"settings": settings}, indent=1) + "\n")
    found = {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}
    assert found == expected["sha256"]
