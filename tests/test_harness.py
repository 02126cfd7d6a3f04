"""lm-evaluation-harness and groundup give equal figures, by the adapter and with an exported model in its own `hf`.

Needs lm-evaluation-harness: `make interop` installs it, with the other targets of an export, and runs this.
"""

import json
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

import groundup
from groundup.evaluation.likelihood import log_likelihoods

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: make interop")
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # it prints a warning

QUESTIONS = {
    "arc_easy": [
        {"question": f"What is {n}?", "choices": {"text": ["a word", "two", "the model"], "label": ["A", "B", "C"]},
         "answerKey": "ABC"[n % 3]} for n in range(9)
    ],
    "piqa": [
        {"goal": f"Read {n} lines", "sol1": " slowly ", "sol2": "all of them at once", "label": n % 2} for n in range(9)
    ],
    "winogrande": [
        {"sentence": f"Ann gave Eve {n} books, because _ reads a lot.", "option1": "Ann", "option2": "Eve",
         "answer": str(1 + n % 2)} for n in range(9)
    ],
    "lambada": [{"text": f"the small model reads {n} words and learns what comes next"} for n in range(9)],
}  # fmt: skip
WORDS = "the a small model reads words and learns what comes next after some time".split()
THEIRS = {"lambada": "lambada_openai"}  # names
SPLITS = {"arc_easy": "test", "lambada": "test"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, sentences):
    folder = tmp_path_factory.mktemp("harness")
    (folder / "text.txt").write_text(sentences(300))
    groundup.prepare(folder / "text.txt", folder / "data", tokenizer="gpt2")
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 128}
    train = {"max_steps": 30, "batch_tokens": 512, "device": "cpu", "precision": "fp32"}
    overrides = {"model": shape, "train": train, "evaluate": {"every_steps": 0, "tokens": 300, "sample_tokens": 0}}
    groundup.train(folder / "data", folder / "run", preset="gpt2-nano", overrides=overrides)
    return folder / "run"


def as_wikihow(n: int, line: str) -> dict:
    """Row with the markup that WikiHow leaves in two thirds of the questions, and unexpected white space."""
    row = json.loads(line)
    row["endings"] = [
        f"[step] {ending} [title] {n}" if i % 2 else f"{ending} " for i, ending in enumerate(row["endings"])
    ]
    return row | {"ctx_a": f"[header] How to do {n} [title] {row['ctx_a']}", "ctx_b": ""}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, shared_data):
    """Folder of the harness's own tasks on our data files, and our names for the same tasks."""
    import lm_eval

    folder = tmp_path_factory.mktemp("tasks")
    swag = (shared_data / "hellaswag" / "val-first-2000.jsonl").read_text().splitlines()[:100]
    rows = {"hellaswag": [*map(json.loads, swag), *map(as_wikihow, range(20), swag[20:])], **QUESTIONS}
    own = lm_eval.__path__[0]
    where = {"hellaswag": "hellaswag/hellaswag", "arc_easy": "arc/arc_easy", "piqa": "piqa/piqa"}
    where |= {"winogrande": "winogrande/default", "lambada": "lambada/lambada_openai"}
    specs = {}
    for name, lines in rows.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in lines))
        split = SPLITS.get(name, "validation")
        task = {
            "include": f"{own}/tasks/{where[name]}.yaml", "task": f"part_{name}", "dataset_path": "json",
            "dataset_name": None, "dataset_kwargs": {"data_files": {split: str(file)}}, "training_split": None,
        }  # fmt: skip
        task |= {"validation_split": split if split == "validation" else None}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
        specs[f"part_{name}"] = f"{name}={file}"
    return folder, specs


def theirs(model, tasks) -> dict:
    """Accuracies of the harness under our names."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder, specs = tasks
    manager = TaskManager(include_path=str(folder))
    done = lm_eval.simple_evaluate(model, tasks=list(specs), task_manager=manager, bootstrap_iters=10)
    return {name: {k.partition(",")[0]: v for k, v in found.items()} for name, found in done["results"].items()}


def assert_equal(ours, found):
    for grade, (name, values) in zip(ours, found.items(), strict=True):
        mine = grade.flat()
        for metric in ("acc", "acc_norm", "perplexity"):
            ours_is = {"acc": "acc_harness", "acc_norm": "acc_norm_harness"}.get(metric, metric)
            ours_is = ours_is if ours_is in mine else metric
            if metric in values:
                assert mine[ours_is] == pytest.approx(values[metric], rel=1e-4), (name, metric)
                if metric != "perplexity":
                    assert mine[f"{ours_is}_stderr"] == pytest.approx(values[f"{metric}_stderr"]), (name, metric)


def test_figures_of_the_adapter_equal_the_harness(run, tasks):
    from groundup.harness.model import Groundup

    found = theirs(Groundup(path=str(run)), tasks)
    assert {name.removeprefix("part_") for name in found} == {"hellaswag", *QUESTIONS}
    assert_equal(groundup.evaluate_tasks(run, [tasks[1][name] for name in found]), found)


def test_figures_of_the_exported_model_equal_the_harness(run, tasks, tmp_path):
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    groundup.export(run, tmp_path / "hf", to="hf")
    found = theirs(HFLM(pretrained=str(tmp_path / "hf"), device="cpu", batch_size=4, dtype="float32"), tasks)
    assert_equal(groundup.evaluate_tasks(run, [tasks[1][name] for name in found]), found)


def test_rolling_likelihoods_and_generated_answers(run):
    from lm_eval.api.instance import Instance

    from groundup.harness.model import Groundup

    model = Groundup(path=str(run), tokens=64)
    text = "the small model reads words and learns " * 30  # longer than the context
    (nats,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    ids = [model.eot_token_id, *model.tok_encode(text)]
    import torch

    gpt, total = groundup.load(run).model, 0.0
    with torch.no_grad():
        for at in range(0, len(ids) - 1, 128):
            window = torch.tensor(ids[at : at + 129])
            logits = gpt(window[None, :-1])[0].log_softmax(-1)
            total += logits.gather(1, window[1:, None]).sum().item()
    # The harness's last window is shifted back to have a complete context; ours here is not.
    assert nats == pytest.approx(total, rel=0.01)
    settings = {"until": ["\n"], "max_gen_toks": 12}
    (answer,) = model.generate_until([Instance("generate_until", {}, ("The", settings), 0)])
    assert "\n" not in answer
    expected = groundup.generate(run, "The", max_tokens=12, temperature=0)[0]
    assert ("The" + answer) == expected.partition("\n")[0]


def test_the_command_line_evaluates_a_run(run, tasks, tmp_path):
    command = [sys.executable, "-m", "groundup.harness", "--model_args", f"path={run}", "--tasks", "part_piqa"]
    command += ["--include_path", str(tasks[0]), "--output_path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("results_*.json")
    found = json.loads(file.read_text())["results"]["part_piqa"]
    ours = groundup.evaluate_tasks(run, [tasks[1]["part_piqa"]])[0].flat()
    assert found["acc,none"] == pytest.approx(ours["acc"])
    bad = subprocess.run([*command[:4], "path=nowhere", *command[5:]], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1].startswith("groundup: nowhere: ")


def test_copa_through_the_server_gets_the_same_choices(run, tmp_path):
    """The harness asks `local-completions` for the log-probabilities of a prompt: `echo`, `logprobs`, token ids."""
    pytest.importorskip("fastapi")
    pytest.importorskip("tenacity", reason="needs lm-eval[api]")
    import lm_eval
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.tasks import TaskManager

    sys.path.insert(0, str(Path(__file__).parent / "server"))
    from liveserver import serving

    rows = [copa_row(n) for n in range(50)]
    (tmp_path / "copa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"include": f"{lm_eval.__path__[0]}/tasks/super_glue/copa/default.yaml", "task": "served_copa"}
    task |= {"target_delimiter": ""}  # its choices begin with a space
    task |= {"dataset_path": "json", "dataset_name": None, "training_split": None}
    task |= {"dataset_kwargs": {"data_files": {"validation": str(tmp_path / "copa.jsonl")}}}
    (tmp_path / "copa.yaml").write_text(yaml.safe_dump(task))
    questions = [
        {"context": f"{row['premise'][:-1]} {'because' if row['question'] == 'cause' else 'therefore'}",
         "choices": [row[name][0].lower() + row[name][1:] for name in ("choice1", "choice2")], "answer": row["label"]}
        for row in rows
    ]  # fmt: skip
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    groundup.export(run, tmp_path / "hf", to="hf")  # its tokenizer

    with serving({"tiny": groundup.load(run, device="cpu")}) as live:
        model = LocalCompletionsAPI(
            model="tiny", base_url=f"{live.url}/v1/completions", tokenizer_backend="huggingface",
            tokenizer=str(tmp_path / "hf"), num_concurrent=4, batch_size=3, max_length=129,
        )  # fmt: skip
        manager = TaskManager(include_path=str(tmp_path))
        done = lm_eval.simple_evaluate(model, tasks=["served_copa"], task_manager=manager, bootstrap_iters=10)
    [own] = groundup.evaluate_tasks(run, [str(tmp_path / "own.jsonl")])
    assert done["results"]["served_copa"]["acc,none"] == own.flat()["acc"]
    loaded, pairs, theirs = groundup.load(run, device="cpu"), [], []
    for sample in sorted(done["samples"]["served_copa"], key=lambda sample: sample["doc_id"]):
        theirs += [value for [(value, _)] in sample["resps"]]
    for question in questions:
        for choice in question["choices"]:
            pairs.append(tuple(loaded.tokenizer.encode(text) for text in (question["context"], f" {choice}")))
    nats = log_likelihoods(loaded.model, pairs, device=loaded.device, autocast=nullcontext).nats
    assert theirs == pytest.approx(nats.tolist(), abs=1e-3)


def copa_row(n: int) -> dict:
    """A question in COPA's form, of words that the model has read."""
    rng = random.Random(n)
    premise, first, second = (" ".join(rng.choices(WORDS, k=k)).capitalize() + "." for k in (5, 4, 6))
    return {"premise": premise, "choice1": first, "choice2": second, "question": ("cause", "effect")[n % 2],
            "label": n % 2, "idx": n}  # fmt: skip
