"""Evaluation by several processes gives the results of one."""

import json

import jobs
import pytest
import work
from test_same_results import config

import groundup
from groundup.checkpoint.log import read_log

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["fsdp", pytest.param("ddp", marks=pytest.mark.long)])
def test_loss_and_tasks_are_the_same_during_training_and_after(kind, prepared, tmp_path, sentences):
    rows = [
        {"context": sentences(1, seed=i), "choices": [sentences(1, seed=10 + i + j)[:9] for j in range(2 + i % 3)]}
        for i in range(23)
    ]
    questions = tmp_path / "mine.jsonl"
    questions.write_text("".join(json.dumps(row | {"answer": 1}) + "\n" for row in rows))
    case = config("gpt2", train={"parallel": kind, "max_steps": 4}, evaluate={"tasks": str(questions)})
    jobs.run(2, work.train_all, prepared, tmp_path, {"run": case}, place=tmp_path / "train")
    results = jobs.run(2, work.evaluated, tmp_path / "run", prepared, [str(questions)], place=tmp_path / "evaluate")
    assert results[0] == results[1]
    loss, (tasks,) = results[0]
    alone = groundup.evaluate(tmp_path / "run", data=prepared)
    assert loss["loss"] == pytest.approx(alone.loss, abs=1e-6)
    assert loss["loss_stderr"] == pytest.approx(alone.loss_stderr, abs=1e-6)
    assert tasks == pytest.approx(groundup.evaluate_tasks(tmp_path / "run", [str(questions)])[0].flat())
    logged = [record for record in read_log(tmp_path / "run" / "log.jsonl") if record["event"] == "eval"][-1]
    assert logged["tasks"]["mine"] == pytest.approx(tasks)
