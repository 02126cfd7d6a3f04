"""`groundup evaluate` as a user types it, and the same tasks during training."""

import json
import shutil

import pytest

from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.data.shards import Manifest

QUESTIONS = [{"context": "The small model", "choices": ["reads", "words.", "x"], "answer": i % 3} for i in range(7)]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def test_loss_and_tasks_in_one_table_and_in_the_log(groundup, run, mine):
    done = groundup("evaluate", run, "--tasks", "loss,mine.jsonl")
    assert done.status == 0, done.err
    for words in ("val loss", "nats per token", "perplexity", "bits/byte", "gzip -9", "bigram", "mine", "acc_norm"):
        assert words in done.out
    assert "step-00000012: 7,680 parameters" in done.out  # without the rows that pad 257 ids to 320
    noted = read_log(run / "log.jsonl")[-1]
    assert noted["event"] == "eval_checkpoint"
    assert (noted["checkpoint"], noted["step"]) == ("step-00000012", 12)
    assert noted["results"]["mine"]["n"] == 7
    assert noted["results"]["loss"]["loss_stderr"] > 0
    assert noted["how"]["split"] == "val"
    assert noted["how"]["sources"] == {"mine": "mine.jsonl"}
    for place in (run / "checkpoints" / "step-00000012", run / "latest"):
        groundup("evaluate", place, "--tasks", "mine.jsonl:2")
        last = read_log(run / "log.jsonl")[-1]
        assert (last["checkpoint"], last["results"]["mine"]["n"]) == ("step-00000012", 2), "it belongs to the run"
        (run / "log.jsonl").write_text("")


def test_as_json_it_is_one_object(groundup, run, mine, tmp_path):
    alone = shutil.copytree(RunFolder(run).steps()[-1], tmp_path / "alone")
    done = groundup("evaluate", alone, "--tasks", mine, "--json")
    found = json.loads(done.out)
    assert set(found["tasks"]["mine"]) >= {"n", "acc", "acc_stderr", "acc_norm", "acc_norm_harness", "chance", "source"}
    assert found["tasks"]["mine"]["chance"] == {name: pytest.approx(1 / 3) for name in found["tasks"]["mine"]["chance"]}
    assert "loss" not in found
    short = json.loads(groundup("evaluate", run, "--json", "--stride", "4", "--window", "8", "--no-baselines").out)
    assert "baselines" not in short
    assert short["loss_stderr"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "hellaswog"], "did you mean hellaswag"),
        (["--tasks", "mine.jsonl,mine.jsonl"], "given twice"),
        (["--tasks", "mine.jsonl", "--stride", "3"], "--stride: is for the loss; add it: --tasks loss,mine.jsonl"),
        (["--stride", "17"], "stride 17: must be from 1 to the window of 16"),
        (["--stride", "9", "--window", "8"], "stride 9: must be from 1 to the window of 8"),
        (["--tasks", "long.jsonl"], "line 1: an ending of 20 tokens does not fit the model's context of 16"),
        (["--tasks", ""], "there is no such task"),
        (["--task_file", "mine.jsonl"], "--task_file: unknown option; here that is --tasks FILE"),
        (["--tasks", "mine.jsonl,none"], "'none': there is no such task"),
        (["--tasks", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
    ],
)
def test_mistakes(groundup, run, mine, words, message):
    mine.with_name("long.jsonl").write_text(json.dumps({"context": "a", "choices": ["b" * 19, "c"], "answer": 0}))
    done = groundup("evaluate", run, *words)
    assert done.status == 2
    assert message in done.err


def test_a_context_that_is_too_long_is_cut_with_a_note(groundup, run, mine):
    mine.write_text(json.dumps({"context": "so long " * 9, "choices": ["b", "c"], "answer": 0}))
    assert "mine: 2 endings lost the beginning of a prompt too long" in groundup("evaluate", run, "--tasks", mine).out


def test_equal_choices_are_chance_and_counted(groundup, run, mine):
    mine.write_text(
        "".join(json.dumps({"context": "a", "choices": ["b", "b", "b"], "answer": i}) + "\n" for i in (0, 2))
    )
    done = groundup("evaluate", run, "--tasks", mine)
    said = " ".join(done.out.split())
    assert "as likely as another, and scores its share: 2 in acc, 2 in acc_norm, 2 in acc_norm_harness" in said
    found = json.loads(groundup("evaluate", run, "--tasks", mine, "--json").out)["tasks"]["mine"]
    assert (found["acc"], found["acc_ties"]) == (pytest.approx(1 / 3), 2)
    assert "_ties" not in groundup("compare", run).out


def test_a_narrow_screen_and_long_names_cut_no_number(groundup, run, mine, monkeypatch):
    name = "questions-of-a-long-name-" * 4
    long = mine.rename(mine.with_name(f"{name}\x1b[m.jsonl"))
    monkeypatch.setenv("COLUMNS", "30")
    done = groundup("evaluate", run, "--tasks", long)
    assert "…" not in done.out
    assert f"{name}\\x1b[m  acc " in done.out
    assert f"{read_log(run / 'log.jsonl')[-1]['results'][name + chr(27) + '[m']['acc_stderr']:.4f}" in done.out


def test_a_checkpoint_without_its_data_names_the_missing_option(groundup, run, tmp_path):
    from groundup.checkpoint.files import CONFIG

    alone = shutil.copytree(RunFolder(run).steps()[-1], tmp_path / "alone")
    values = json.loads((alone / CONFIG).read_text())
    (alone / CONFIG).write_text(json.dumps(values | {"data": None}))
    _sums_again(alone)
    done = groundup("evaluate", alone)
    assert (done.status, "give a prepared folder with --data" in done.err) == (2, True)


def test_a_changed_data_folder_is_refused_unless_it_is_asked_for(groundup, run, prepared):
    _train_on(run, "0" * 64)
    done = groundup("evaluate", run)
    assert done.status == 2
    fingerprint = Manifest.load(prepared).fingerprint[:12]
    assert f"not the data that this run was trained on (fingerprint {fingerprint}, the run's 000000000000)" in done.err
    assert "give the folder of the run's data with --data DIR" in done.err
    assert not [r for r in read_log(run / "log.jsonl") if r["event"] == "eval_checkpoint"], "it is not the run's loss"
    done = groundup("evaluate", run, "--data", prepared, "--json", "--no-baselines")
    assert (done.status, "it may hold text that the run was trained on" in done.err) == (0, True)
    assert read_log(run / "log.jsonl")[-1]["how"]["own_data"] == "other"
    assert json.loads(done.out)["split"] == "val"


def test_generating_and_comparing_say_that_the_data_has_changed(groundup, run, prepared):
    assert "not the data" not in groundup("generate", run, "--max-tokens", "2").err
    _train_on(run, "0" * 64)
    done = groundup("generate", run, "--max-tokens", "2")
    assert (done.status, f"note  {prepared}: not the data that this run was trained on" in done.err) == (0, True)
    assert f"{run.name}: {prepared}: not the data that this run was trained on" in groundup("compare", run).out
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(prepared), "nowhere"))
    assert "not the data" not in groundup("compare", run).out, "nobody can tell"


def test_a_prompt_longer_than_the_context_is_noted(groundup, run):
    done = groundup("generate", run, "--max-tokens", "1", "--prompt", "a" * 17)
    assert (done.status, "the prompt has 17 tokens: the model reads the last 16" in done.err) == (0, True)
    assert "note" not in groundup("generate", run, "--max-tokens", "1", "--prompt", "a" * 16).err


def test_an_option_that_cannot_change_is_not_called_unknown(groundup, run):
    done = groundup("resume", run, "--optimizer.learning-rate", "1e-4")
    assert done.status == 2
    assert "--optimizer.learning_rate: cannot change when a run is resumed; start a new run" in done.err
    assert "unknown option" in groundup("resume", run, "--optimizer.lerning_rate", "1").err


def _train_on(run, fingerprint):
    """Make the newest checkpoint say that it was trained on the data with this fingerprint."""
    newest = RunFolder(run).steps()[-1]
    progress = json.loads((newest / "progress.json").read_text())
    (newest / "progress.json").write_text(json.dumps(progress | {"data": fingerprint}))
    _sums_again(newest)


def _sums_again(folder):
    import hashlib

    lines = (folder / "SHA256SUMS").read_text().splitlines()
    names = [line.split(maxsplit=1)[1].lstrip("*") for line in lines]
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" for name in names]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")


def test_tasks_during_training_change_nothing(groundup, prepared, fast, mine, tmp_path):
    for name, options in (("plain", []), ("tasks", ["--evaluate.tasks", "mine.jsonl:5"])):
        done = groundup("train", "gpt2-nano", "--data", prepared, "--out", name, *fast, *options)
        assert done.status == 0, done.err
    assert "step 6: mine acc" in done.out
    evals = [r for r in read_log(tmp_path / "tasks" / "log.jsonl") if r["event"] == "eval"]
    assert [r["tasks"]["mine"]["n"] for r in evals] == [5, 5]
    weights = [
        (tmp_path / name / "checkpoints/step-00000012/model.safetensors").read_bytes() for name in ("plain", "tasks")
    ]
    assert weights[0] == weights[1]
    found = json.loads(groundup("evaluate", "tasks", "--tasks", "mine.jsonl:5", "--json").out)["tasks"]["mine"]
    assert {k: found[k] for k in evals[-1]["tasks"]["mine"]} == pytest.approx(evals[-1]["tasks"]["mine"])


def test_an_unknown_task_is_refused_before_training_starts(groundup, prepared, fast, tmp_path):
    for task, message in (
        ("hellaswog", "evaluate.tasks: 'hellaswog'"),
        ("no.jsonl", "no.jsonl: there is no such file"),
        ("loss", "evaluate.tasks: loss: the loss is always evaluated, and it is not a task; leave it out"),
    ):
        done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "r", *fast, "--evaluate.tasks", task)
        assert done.status == 2
        assert message in done.err
        assert not (tmp_path / "r").exists()


def test_during_training_hellaswag_is_evaluated_in_one_form(groundup, prepared, fast, tmp_path):
    row = {
        "activity_label": "a", "ctx_a": "The model.", "ctx_b": "it", "ctx": "The model. it", "label": 1,
        "endings": ["reads", "words", "and", "learns"],
    }  # fmt: skip
    (tmp_path / "swag.jsonl").write_text(json.dumps(row))
    groundup("train", "gpt2-nano", "--data", prepared, "--out", "r", *fast, "--evaluate.tasks", "swag.jsonl")
    (first, _) = [r["tasks"]["hellaswag"] for r in read_log(tmp_path / "r" / "log.jsonl") if r["event"] == "eval"]
    assert first.keys() == {"n", "acc", "acc_norm"}


def test_results_are_printed_if_the_log_cannot_be_written(groundup, run, mine, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("groundup.run.evaluate_checkpoint.Log", refuse)
    done = groundup("evaluate", run, "--tasks", mine)
    assert "acc_norm" in done.out
    assert (done.status, "the results are not logged" in done.err) == (0, True)


def test_a_missing_task_file_is_named_with_its_config_key(groundup, prepared, fast, mine, tmp_path):
    groundup("train", "gpt2-nano", "--data", prepared, "--out", "r", *fast, "--evaluate.tasks", "mine.jsonl")
    mine.unlink()
    done = groundup("resume", "r", "--train.max_steps", "14")
    assert done.status == 2
    assert "evaluate.tasks: mine.jsonl: there is no such file" in done.err
    assert groundup("resume", "r", "--train.max_steps", "14", "--evaluate.tasks", "").status == 0


def test_none_turns_tasks_off(groundup, prepared, fast, run, tmp_path):
    (tmp_path / "r.yaml").write_text("evaluate:\n  tasks: [mine.jsonl]\n")
    words = ["--data", prepared, "--out", "r", *fast, "--config", "r.yaml", "--evaluate.tasks", "none"]
    assert groundup("train", "gpt2-nano", *words).status == 0
    assert RunFolder(tmp_path / "r").config().evaluate.tasks == ()
    found = json.loads(groundup("evaluate", run, "--tasks", "none", "--json", "--no_baselines").out)
    assert "loss" in found
    assert "tasks" not in found


def test_a_dry_run_fetches_no_questions_from_the_hub_and_says_so(groundup, prepared, fast, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def refuse(*args):
        raise AssertionError("a dry run fetches nothing")

    monkeypatch.setattr("groundup.evaluation.tasks._download", refuse)
    words = ["train", "gpt2-nano", "--data", prepared, *fast, "--dry-run", "--evaluate.tasks", "hellaswag:500"]
    done = groundup(*words)
    assert done.status == 0, done.err
    assert "hellaswag:500: its questions are fetched from the hub when training starts" in done.out
    assert json.loads(groundup(*words, "--json").out)
