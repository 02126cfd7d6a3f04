"""`groundup generate`: options of sampling, stop texts, log-probabilities, and whether samples are copied."""

import json
import math

import pytest

from groundup.checkpoint.state import load


def generated(done) -> dict:
    assert done.status == 0, done.err
    return json.loads(done.out)


ARGUMENTS = ("--prompt", "The a", "--max-tokens", 30, "--json", "--quiet")


def test_stop_texts_end_samples_before_them(groundup, run):
    (whole,) = generated(groundup("generate", run, *ARGUMENTS))["samples"]
    for stop in (whole[12:14], whole[20:25]):
        (cut,) = generated(groundup("generate", run, *ARGUMENTS, "--stop", "nowhere", "--stop", stop))["samples"]
        assert cut == whole[: whole.index(stop, 5)]


def test_bias_and_penalties_change_what_is_sampled(groundup, run):
    a, e = ord("a"), ord("e")
    (forced,) = generated(groundup("generate", run, *ARGUMENTS, "--logit-bias", f"{a}=100"))["samples"]
    assert forced == "The a" + 30 * "a"
    forbidden = [word for letter in (a, e) for word in ("--logit-bias", f"{letter}=-100")]
    (without,) = generated(groundup("generate", run, *ARGUMENTS, *forbidden))["samples"]
    assert not {"a", "e"} & set(without[5:])
    plain = generated(groundup("generate", run, *ARGUMENTS))["samples"]
    for option, value in (
        ("--repetition-penalty", 3),
        ("--presence-penalty", 2),
        ("--frequency-penalty", 2),
        ("--min-p", 0.9),
    ):
        assert generated(groundup("generate", run, *ARGUMENTS, option, value))["samples"] != plain


def test_log_probabilities_come_with_the_tokens(groundup, run):
    found = generated(groundup("generate", run, *ARGUMENTS, "--num-samples", 2, "--logprobs", 2, "--temperature", 0))
    for text, logprobs in zip(found["samples"], found["logprobs"], strict=True):
        assert "The a" + load(run).tokenizer.decode(logprobs["tokens"]) == text
        assert all(value <= 0 and math.isfinite(value) for value in logprobs["values"])
        best = [[token, value] for token, value in zip(logprobs["tokens"], logprobs["values"], strict=True)]
        assert [top[0] for top in logprobs["top"]] == best


def test_samples_are_looked_up_in_the_training_text(groundup, run, tmp_path):
    found = generated(groundup("generate", run, *ARGUMENTS, "--memorization"))
    assert found["overlap"]["recites"] is False
    assert "It does not copy: " in groundup("generate", run, "--prompt", "The", "--memorization").err
    done = groundup("generate", run, "--prompt", "The", "--memorization", "--data", tmp_path / "none")
    assert (done.status, done.out) == (2, "")
    assert "none" in done.err


def test_evaluate_says_whether_the_model_copies(groundup, run):
    found = json.loads(groundup("evaluate", run, "--memorization", "--no-baselines", "--json").out)
    assert found["overlap"]["recites"] is False
    assert "It does not copy: " in groundup("evaluate", run, "--memorization", "--no-baselines").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "nan"], "temperature nan: must be 0 (greedy) or more"),
        (["--top-k", "-3"], "top_k -3: must be 1 or more"),
        (["--min-p", "2"], "min_p 2.0: must be from 0 to 1"),
        (["--repetition-penalty", "0"], "repetition_penalty 0.0: must be more than 0"),
        (["--frequency-penalty", "9"], "frequency_penalty 9.0: must be from -2 to 2"),
        (["--logit-bias", "the=3"], "'the=3' is not ID=NUMBER"),
        (["--logit-bias", "5=1e9"], "logit_bias of id 5: 1000000000.0: must be from -100 to 100"),
        (["--logit-bias", "257=3"], "logit_bias: id 257 is not one of the model's, which are 0 to 256"),
        (["--stop", ""], "stop: an empty text"),
        (["--logprobs", "2"], "--logprobs: is for --json; add that"),
        (["--data", "x"], "--data: is for --memorization; add that"),
        (["--max-tokens", "-1"], "max_tokens -1: must be 0 or more"),
        (["--num-samples", "1001"], "num_samples 1001: must be from 1 to 1,000"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, groundup, run):
    done = groundup("generate", run, "--prompt", "The", *arguments)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
