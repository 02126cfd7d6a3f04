"""Questions are formatted and scored as in lm-evaluation-harness and llm.c."""

import gzip
import json
import math

import numpy as np
import pytest

from groundup.errors import DataError, UsageError
from groundup.evaluation.multiple_choice import EncodedQuestion, MultipleChoice, encode
from groundup.evaluation.task_table import CUSTOM, TASKS, build_question
from groundup.evaluation.tasks import TaskSpec, compute_result, needs_download, open_task, open_tasks, read_rows
from groundup.tokenizers.byte_char import ByteTokenizer
from groundup.tokenizers.registry import choose_tokenizer

BYTES = ByteTokenizer()
HELLASWAG = {
    "activity_label": "Roofing", "ctx_a": "A man sits [step] on a roof.", "ctx_b": "he",
    "ctx": "A man sits [step] on a roof. he", "label": "2",
    "endings": ["falls [title] off", "sings.", "naps.", "waits."],
}  # fmt: skip
ROWS = {
    "hellaswag": HELLASWAG,
    "arc_easy": {
        "question": "Why?", "choices": {"text": ["so", "no", "yes"], "label": ["1", "2", "3"]}, "answerKey": "3",
    },
    "piqa": {"goal": "Open a jar", "sol1": "Twist", "sol2": "Shout", "label": 0},
    "winogrande": {"sentence": "Ann told Eve _ was late.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    "lambada": {"text": "She sat down and ate the bread"},
}  # fmt: skip


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def question(task: str, form: int = 0) -> MultipleChoice:
    return build_question(TASKS[task].formats[form], ROWS[task], "here")


def test_hellaswag_is_formatted_raw_as_in_llm_c_and_cleaned_as_in_the_harness():
    raw, clean = question("hellaswag"), question("hellaswag", 1)
    assert raw.prompts == ("A man sits [step] on a roof. he",) * 4
    assert raw.endings[0] == " falls [title] off"
    assert clean.prompts == ("Roofing: A man sits on a roof. He",) * 4
    assert clean.endings == (" falls. off", " sings.", " naps.", " waits.")
    assert raw.answer == clean.answer == 2


def test_the_other_tasks_are_formatted_as_in_the_harness():
    requested = MultipleChoice(("Question: Why?\nAnswer:",) * 3, (" so", " no", " yes"), 2, (2, 2, 3), "here")
    assert question("arc_easy") == requested
    requested = MultipleChoice(("Question: Open a jar\nAnswer:",) * 2, (" Twist", " Shout"), 0, (5, 5), "here")
    assert question("piqa") == requested
    prompts = ("Ann told Eve Ann", "Ann told Eve Eve")
    assert question("winogrande") == MultipleChoice(prompts, (" was late.",) * 2, 1, (9, 9), "here")
    assert question("lambada") == MultipleChoice(("She sat down and ate the",), (" bread",), 0, (5,), "here")


def test_white_space_of_a_choice_counts_as_the_harness_counts_it():
    wikihow = {**HELLASWAG, "endings": ["[step] Rub it.", "b", "c", "d "]}
    requested = build_question(TASKS["hellaswag"].formats[1], wikihow, "here")
    assert requested.endings == ("  Rub it.", " b", " c", " d")
    assert requested.lengths == (8, 1, 1, 1)
    requested = build_question(TASKS["piqa"].formats[0], {**ROWS["piqa"], "sol1": " Twist it "}, "here")
    assert (requested.endings[0], requested.lengths[0]) == ("  Twist it ", 10)
    own = {"context": "A: ", "choices": ["yes", " no"], "answer": 0}
    assert build_question(CUSTOM.formats[0], own, "here").endings == ("yes", " no")
    assert build_question(CUSTOM.formats[0], {**own, "context": "A:"}, "here").endings == (" yes", " no")


def test_every_task_has_a_pinned_commit_and_a_file():
    for task in TASKS.values():
        assert task.hub_file is not None
        assert len(task.hub_file.revision) == 40
        assert f"x{''.join(task.hub_file.path.rpartition('.')[1:])}" in ("x.parquet", "x.jsonl")


def test_an_ending_is_the_rest_of_the_ids_after_its_context():
    """A tokenizer may join letters across the border: the harness then splits by number of ids, and so do we."""
    gpt2 = choose_tokenizer("gpt2")
    one = MultipleChoice(("Hello ", "Hello "), ("world", " world"), 0, (5, 5))
    spaced = encode(one, gpt2, separately=False).pairs[0]
    assert [gpt2.decode(ids.tolist()) for ids in spaced] == ["Hello", " world"]
    apart = encode(one, gpt2, separately=True).pairs[0]
    assert [gpt2.decode(ids.tolist()) for ids in apart] == ["Hello ", "world"]


def test_prompt_and_ending_are_encoded_apart_for_hellaswag_as_in_llm_c_alone(tmp_path):
    gpt2 = choose_tokenizer("gpt2")
    row = {"ctx_a": "a", "ctx_b": "b", "activity_label": "c", "ctx": "Hello ", "endings": ["x", "y"], "label": 0}
    own = {"context": "Hello ", "choices": ["world", "you"], "answer": 0}
    file, ours = written(tmp_path / "hellaswag.jsonl", row), written(tmp_path / "own.jsonl", own)
    found = [open_task(str(path), gpt2).parts[0].questions[0].pairs[0][0] for path in (file, ours)]
    assert [gpt2.decode(ids.tolist()) for ids in found] == ["Hello ", "Hello"]


def test_an_empty_context_is_replaced_by_the_end_of_text():
    (prompt, ending), _ = encode(MultipleChoice(("", ""), ("a", "b"), 0, (1, 1)), BYTES, separately=False).pairs
    assert prompt.tolist() == [256]
    assert ending.tolist() == [97]


def task_of(tmp_path, *rows, **options):
    return open_task(str(written(tmp_path / "mine.jsonl", *rows)), BYTES, **options)


def test_a_user_file_is_graded_by_three_metrics(tmp_path):
    task = task_of(
        tmp_path,
        {"context": "x", "choices": ["ab", "abcd"], "answer": 0},
        {"context": "x", "choices": ["a", "abc", "é"], "answer": 2},
    )
    assert (task.name, task.size) == ("mine", 2)
    # log-likelihoods, by hand: question 1 sum 0 (-3 > -4), mean over 3 and 5 bytes 1 (-1 < -0.8), over 2 and 4
    # letters 1 (-1.5 < -1); question 2 sum 0, means over 2, 4 and 3 bytes 2 (-2, -1.5, -1.4), over letters 1.
    nats = np.array([-3.0, -4.0, -4.0, -6.0, -4.2])
    found = compute_result(task, nats, np.zeros(5, dtype=bool))
    values = {name: one.value for name, one in found.metrics.items()}
    assert values == {"acc": 0.5, "acc_norm": 0.5, "acc_norm_harness": 0.0}
    assert found.metrics["acc"].stderr == pytest.approx(math.sqrt(0.5) / math.sqrt(2))
    assert found.metrics["acc"].chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found.flat()["n"] == 2
    assert "acc 0.5000 ± 0.5000" in str(found)


@pytest.mark.parametrize("answer", [0, 1])
def test_tied_choices_score_their_share_in_any_order(answer, tmp_path):
    task = task_of(tmp_path, *[{"context": "The", "choices": ["cats are fat", "cats is fat!"], "answer": answer}] * 20)
    nats = np.full(40, -51.25)
    nats[::2] *= 1 + 1e-7  # rounded in another batch
    found = compute_result(task, nats, np.zeros(40, dtype=bool))
    acc = found.metrics["acc"]
    assert (acc.value, acc.stderr, acc.chance, acc.ties) == (0.5, 0.0, 0.5, 20)
    assert found.flat()["acc_ties"] == 20
    nats[::2] -= 0.001
    clear = compute_result(task, nats, np.zeros(40, dtype=bool))
    assert (clear.metrics["acc"].value, clear.metrics["acc"].ties) == (float(answer == 1), 0)
    assert "acc_ties" not in clear.flat()


def test_lambada_scores_the_greedy_continuation(tmp_path):
    path = written(tmp_path / "l.jsonl", *[{"context": "a b", "continuation": "c"}] * 4)
    task = open_task(str(path), BYTES)
    assert task.name == "lambada"
    found = compute_result(task, np.array([-1.0, -2.0, -3.0, -2.0]), np.array([True, False, False, True]))
    assert found.metrics["acc"].value == 0.5
    assert found.metrics["acc"].chance is None
    assert found.metrics["perplexity"].value == pytest.approx(math.exp(2))
    assert found.metrics["perplexity"].stderr == pytest.approx(math.exp(2) * math.sqrt(2 / 3) / 2)


def test_files_are_known_by_their_fields_packed_or_not(tmp_path):
    path = written(tmp_path / "swag.jsonl", HELLASWAG)
    packed = tmp_path / "swag.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, packed):
        task = open_task(str(file), BYTES)
        assert (task.name, len(task.parts)) == ("hellaswag", 2)
    assert len(open_task(str(path), BYTES, all_formats=False).parts) == 1


def test_parquet_is_read_in_the_format_of_the_hub(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist([ROWS["arc_easy"]] * 2), tmp_path / "arc.parquet")
    task = open_task(f"arc_challenge={tmp_path / 'arc.parquet'}:1", BYTES)
    assert (task.name, task.size, task.parts[0].questions[0].answer) == ("arc_challenge", 1, 2)
    (tmp_path / "arc.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="damaged or cut short as a parquet file"):
        open_task(str(tmp_path / "arc.parquet"), BYTES)


def test_the_hardest_questions_are_the_longest(tmp_path):
    rows = [{"context": "x" * n, "choices": ["a", "b"], "answer": 0} for n in (3, 9, 1, 30)]
    task = task_of(tmp_path, *rows)
    (part,) = task.longest(10).parts
    assert [one.tokens for one in part.questions] == [64]
    assert len(task.longest(10**9).parts[0].questions) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hellaswag", TaskSpec("hellaswag", None, None)),
        ("hellaswag:500", TaskSpec("hellaswag", None, 500)),
        ("piqa=a/b.jsonl:3", ("piqa", "a/b.jsonl", 3)),
        ("C:/x.parquet", ("", "C:/x.parquet", None)),
    ],
)
def test_specs(text, expected):
    found = TaskSpec.parse(text)
    assert found == expected or (found.name, str(found.file), found.limit) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("helaswag", "did you mean hellaswag"),
        ("hellaswag:0", "give at least 1"),
        ("hellaswag:²", "there is no such task"),
        ("los", "did you mean loss"),
        ("loss", "the loss is always evaluated, and it is not a task; leave it out"),
        ("arabic", "known: loss, hellaswag, arc_easy"),
        ("pika=x.jsonl", "pika: there is no such task; did you mean piqa"),
        ("", "there is no such task"),
    ],
)
def test_an_unknown_task_is_one_sentence(text, message):
    with pytest.raises(UsageError, match=message):
        TaskSpec.parse(text)


GOOD = {"context": "c", "choices": ["a", "b"], "answer": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "answer": 2}, "line 2: answer 2 is none of its 2 choices, counted from 0"),
        ({**GOOD, "answer": -1}, "line 2: answer -1 is none of its 2 choices"),
        ({**GOOD, "answer": "b"}, "line 2: answer 'b': not the number of a choice"),
        ({**GOOD, "answer": True}, "line 2: answer True: not the number of a choice"),
        ({**GOOD, "choices": ["a", " "]}, "line 2: choice 1 is empty"),
        ({**GOOD, "choices": ["a"]}, "line 2: choices: not a list of two texts"),
        ({**GOOD, "choices": "ab"}, "line 2: choices: not a list of two texts"),
        ({**GOOD, "context": 3}, "line 2: context: not a text"),
        ({"context": "c", "answer": 1}, "line 2: has no choices"),
        ([1], "line 2: a JSON list"),
        ({**GOOD, "context": "\ud800"}, "line 2: "),
    ],
)
def test_an_invalid_question_is_one_sentence_with_its_line(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        task_of(tmp_path, GOOD, row)


def test_other_bad_files(tmp_path):
    cases = {
        "missing.jsonl": (None, "there is no such file"),
        "empty.jsonl": ("", "holds no questions"),
        "torn.jsonl": ('{"context": ', "line 1: not valid JSON"),
        "other.jsonl": ('{"text": "x"}', "its rows have text, which fits no task"),
    }
    for name, (text, message) in cases.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            open_task(str(tmp_path / name), BYTES)
    with pytest.raises(DataError, match="label '': not a number; the test parts"):
        open_task(str(written(tmp_path / "h.jsonl", {**HELLASWAG, "label": ""})), BYTES)
    arc = written(tmp_path / "a.jsonl", {**ROWS["arc_easy"], "answerKey": "E"})
    with pytest.raises(DataError, match="answerKey 'E': none of its labels, 1, 2, 3"):
        open_task(f"arc_easy={arc}", BYTES)
    with pytest.raises(DataError, match="could be arc_easy or arc_challenge; say which"):
        open_task(str(arc), BYTES)
    for change, message in (
        ({"ctx": None}, "a value is not text"),
        ({"endings": "abcd"}, "endings: not a list of texts"),
        ({"label": float("inf")}, "label inf: not a number"),
        ({"label": 1.9}, "label 1.9: not a number"),
    ):
        with pytest.raises(DataError, match=message):
            open_task(str(written(tmp_path / "h.jsonl", {**HELLASWAG, **change})), BYTES)
    with pytest.raises(DataError, match="answer '3': neither 1 nor 2"):
        open_task(str(written(tmp_path / "w.jsonl", {**ROWS["winogrande"], "answer": "3"})), BYTES)
    with pytest.raises(DataError, match="sentence: has no gap"):
        open_task(str(written(tmp_path / "w.jsonl", {**ROWS["winogrande"], "sentence": "none"})), BYTES)


def test_a_tokenizer_that_lacks_a_letter_says_which_line(tmp_path):
    from groundup.tokenizers.byte_char import CharTokenizer

    path = written(tmp_path / "q.jsonl", GOOD, {**GOOD, "context": "ü"})
    with pytest.raises(DataError, match=r"q\.jsonl, line 2: 'ü'"):
        open_task(str(path), CharTokenizer(" abc"))


def test_a_sample_of_the_real_tasks(shared_data):
    path = shared_data / "hellaswag" / "val-first-2000.jsonl"
    task = open_task(f"{path}:50", choose_tokenizer("gpt2"))
    assert task.parts[0].chance == 0.25
    assert len(list(read_rows(path))) == 2000
    assert all(isinstance(one, EncodedQuestion) and len(one.pairs) == 4 for one in task.parts[1].questions)


def test_a_task_of_the_hub_is_fetched_at_its_commit_and_once(hub, tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = TASKS["piqa"].hub_file
    pq.write_table(pa.Table.from_pylist([ROWS["piqa"]] * 3), tmp_path / "piqa.parquet")
    hub.put(file.repo, {file.path: (tmp_path / "piqa.parquet").read_bytes()}, revision=file.revision)
    hub.commits[file.repo, file.revision] = file.revision
    hub.put(file.repo, {file.path: b"what is there today"}, revision="main")
    task = open_task("piqa:2", BYTES)
    assert (task.size, task.source) == (2, f"{file.repo}@{file.revision[:12]}")
    n_requests = len(hub.log)
    assert not needs_download("piqa:2")
    assert needs_download("winogrande")
    assert not needs_download("mine.jsonl")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert open_task("piqa", BYTES).size == 3
    assert len(hub.log) == n_requests
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set.*give the file of the task, as winogrande=FILE"):
        open_task("winogrande", BYTES)


def test_duplicate_names_and_files_named_like_a_task_are_refused(tmp_path):
    first, second = written(tmp_path / "mine.jsonl", GOOD), tmp_path / "d" / "mine.jsonl"
    second.parent.mkdir()
    written(second, GOOD)
    with pytest.raises(UsageError, match=r"mine: given from .* and again from"):
        open_tasks([str(first), str(second)], BYTES)
    for name in ("hellaswag", "loss"):
        assert open_task(str(written(tmp_path / f"{name}.jsonl", GOOD)), BYTES).name == f"{name}.jsonl"


def test_an_ending_too_long_for_the_context_is_found_before_any_answer(tmp_path):
    path = written(tmp_path / "q.jsonl", GOOD, {**GOOD, "choices": ["a", "b" * 20]})
    with pytest.raises(DataError, match="line 2: an ending of 21 tokens does not fit the model's context of 16"):
        open_task(str(path), BYTES, block_size=16)


def test_a_nan_score_is_not_an_answer(tmp_path):
    task = task_of(tmp_path, GOOD, GOOD)
    found = compute_result(task, np.array([np.nan, -1.0, -1.0, -2.0]), np.zeros(4, dtype=bool))
    assert math.isnan(found.metrics["acc"].value)
    assert found.flat() == {"n": 2}
    lambada = open_task(str(written(tmp_path / "l.jsonl", {"context": "a", "continuation": "b"})), BYTES)
    found = compute_result(lambada, np.array([-1e9]), np.array([True]))
    assert math.isfinite(found.metrics["perplexity"].value)
    assert "±" not in str(found), "of one question there is no error"
