"""A plan's numbers, compared with real models, tensors, files and batches."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import groundup
from groundup.checkpoint.run_folder import MAX_TOKENS_PER_S, MIN_TOKENS_PER_S, RunFolder, logged_speed
from groundup.config.presets import PRESETS
from groundup.config.schema import Config
from groundup.config.sections import MUON_ONLY
from groundup.config.types import MAX_DIMENSION
from groundup.errors import CheckpointError, ConfigError
from groundup.model import build_model
from groundup.model.memory import activation_bytes, loss_bytes
from groundup.optim.optimizer import RULES, build_optimizer
from groundup.optim.run_length import TimeLength
from groundup.planning import policy
from groundup.planning.memory import Machine
from groundup.planning.plan import DataSize, Plan, Speed, times
from groundup.planning.report import as_json, length, summary, table
from groundup.planning.warnings import warnings
from groundup.run.resolve import plan_here

HERE = Machine("cpu", "fp32", memory=16 * 10**9, free_disk=10**12)
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 300}
RECOMPUTED = ("none", "selective", "full")


def plan(data: DataSize | None = None, machine: Machine = HERE, speed: float | None = None, **sections) -> Plan:
    values = {"model": SMALL, "train": {"max_steps": 10, "batch_tokens": 64}, "evaluate": {"every_steps": 0}}
    config = Config.model_validate({**values, **sections})
    resolved = policy.resolve(config, machine, config.model.vocab_size)
    return Plan(resolved, machine, data, Speed(speed, "as given") if speed else None)


@pytest.mark.parametrize(
    "optimizer", [{"name": "adamw"}, {"name": "muon"}, {"name": "sgd"}, {"name": "sgd", "momentum": 0}], ids=str
)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_optimizer_state_are_those_of_the_model(tied, optimizer):
    planned = plan(model={**SMALL, "tie_embeddings": tied}, optimizer=optimizer)
    gpt = build_model(planned.config.model).init_weights()
    built = build_optimizer(gpt.named_parameters(), planned.config.optimizer)
    gpt(torch.zeros(1, 4, dtype=torch.long)).logsumexp(-1).sum().backward()
    built.step()
    weights = sum(p.numel() for p in gpt.parameters())
    assert planned.parameters + planned.padding == weights == sum(planned.parts.values()) + planned.padding
    assert planned.memory.weights == planned.memory.gradients == 4 * weights
    moments = [t for state in built.state.values() for t in state.values() if t.dim()]
    assert planned.memory.optimizer == 4 * sum(t.numel() for t in moments)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_an_ema_takes_as_much_as_the_weights(name):
    without, with_it = (plan(optimizer={"name": name, "ema_decay": ema}) for ema in (None, 0.999))
    assert with_it.memory.optimizer - without.memory.optimizer == without.memory.weights
    assert with_it.checkpoint_bytes - without.checkpoint_bytes == without.memory.weights


@pytest.mark.parametrize(
    ("given", "meant"),
    [(False, "none"), (True, "full"), ("true", "full"), ("none", "none"), ("selective", "selective"), ("full", "full"),
     ("auto", "none")],
)  # fmt: skip
def test_planned_activations_depend_on_activation_checkpointing(given, meant):
    planned = plan(train={"max_steps": 10, "batch_tokens": 64, "activation_checkpointing": given})
    a_token = {what: activation_bytes(planned.config.model, "fp32", recompute=what) for what in RECOMPUTED}
    assert planned.memory.activations == 64 * a_token[meant]
    assert len(set(a_token.values())) == 3


def test_each_microbatch_thread_has_its_own_gradients():
    machine, train = replace(HERE, threads=2), {"max_steps": 10, "batch_tokens": 64}
    one, two = (plan(machine=machine, train={**train, "microbatch_threads": n}) for n in (1, 2))
    assert two.memory.gradients == 2 * one.memory.gradients
    assert two.memory_of(1).gradients == one.memory_of(1).gradients  # a single sequence is not divided
    assert ", 2 threads" in summary(two)[2]
    assert "threads" not in summary(one)[2]


def test_a_plan_is_resolved_without_microbatch_threads_if_only_they_do_not_fit(monkeypatch):
    train = {"max_steps": 10, "batch_tokens": 64, "device": "cpu", "threads": 2, "precision": "fp32"}
    config = Config.model_validate({"model": SMALL, "train": {**train, "micro_batch_size": 2}})  # adds gradients up
    found = plan_here(config, 300, None)
    assert (found.config.train.microbatch_threads, found.config.train.activation_checkpointing) == (2, "none")
    one = replace(
        found, config=config.model_copy(update={"train": config.train.model_copy(update={"microbatch_threads": 1})})
    )
    monkeypatch.setattr("groundup.run.resolve.main_memory", lambda: one.memory.total)
    assert plan_here(config, 300, None).config.train.microbatch_threads == 1
    given = config.model_copy(update={"train": config.train.model_copy(update={"microbatch_threads": 2})})
    assert plan_here(given, 300, None).config.train.microbatch_threads == 2


def test_a_checkpoint_and_a_log_have_the_planned_size(prepared, tmp_path):
    overrides = {
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 128, "block_size": 16},
        "train": {"max_steps": 40, "batch_tokens": 64, "device": "cpu", "threads": 1, "precision": "fp32"},
        "evaluate": {"every_steps": 0, "sample_tokens": 0, "sample_every_steps": 0, "tokens": 100},
    }
    groundup.train(prepared, tmp_path / "run", preset="gpt2-nano", overrides=overrides)
    run = RunFolder(tmp_path / "run")
    planned = Plan(run.config(), HERE)
    written = sum(path.stat().st_size for path in run.steps()[-1].rglob("*") if path.is_file())
    assert planned.checkpoint_bytes == pytest.approx(written, rel=0.03)
    assert planned.log_bytes == pytest.approx(run.log.stat().st_size, rel=0.15)


def test_run_lengths_in_steps_tokens_and_epochs_agree():
    data = DataSize(sequences=100, val_tokens=0)
    by_steps = plan(data, train={"max_steps": 50, "batch_tokens": 64})
    assert (by_steps.tokens, by_steps.epochs) == (3200, 2.0)
    assert plan(data, train={"max_tokens": 3200, "batch_tokens": 64}).steps == 50
    assert plan(data, train={"epochs": 2, "batch_tokens": 64}).steps == 50
    assert plan(DataSize(1, 0), train={"epochs": 5e-324, "batch_tokens": 64}).steps == 1  # a run has at least one step
    assert by_steps.tokens_per_parameter == 3200 / by_steps.parameters


def test_a_run_length_in_time_becomes_steps_once_the_speed_is_known():
    by_time = plan(train={"max_time": 100, "batch_tokens": 64})
    assert isinstance(by_time.run_length, TimeLength)
    assert by_time.steps is by_time.tokens is by_time.log_bytes is None
    assert "1m 40s" in length(by_time)
    known = replace(by_time, speed=Speed(640.0, "as given"))
    assert known.steps == 1000
    assert known.seconds == 100
    assert "about 1,000 steps" in length(known)


def test_one_epoch_is_no_plural():
    assert length(plan(train={"epochs": 1, "batch_tokens": 64})).startswith("1 epoch;")
    assert " = 1 epoch = " in length(plan(DataSize(100, 0), train={"epochs": 1, "batch_tokens": 64}))
    assert " = 2 epochs = " in length(plan(DataSize(100, 0), train={"epochs": 2, "batch_tokens": 64}))


def test_evaluations_cost_time():
    train, often = {"max_steps": 100, "batch_tokens": 64}, {"every_steps": 10, "tokens": 960}
    without, with_them = (
        plan(DataSize(100, 10_000), speed=640.0, train=train, evaluate=evaluate)
        for evaluate in ({"every_steps": 0, "tokens": 1}, often)
    )
    assert without.seconds == pytest.approx(10, rel=0.01)
    assert with_them.seconds - without.seconds == pytest.approx(10 * 2 * 960 / 3 / 640, rel=0.01)
    by_time = plan(DataSize(100, 10_000), speed=640.0, train={"max_time": 20, "batch_tokens": 64}, evaluate=often)
    assert by_time.steps == pytest.approx(100, abs=1)


@pytest.mark.parametrize(("steps", "every", "found"), [(10, 0, 1), (10, 5, 2), (11, 5, 3), (3, 5, 1)])
def test_what_happens_every_n_steps_also_happens_at_the_end(steps, every, found):
    assert times(steps, every) == found


def test_a_missing_run_length_is_refused_and_epochs_without_data_are_left_open():
    with pytest.raises(ConfigError, match="no run length"):
        _ = plan(train={"batch_tokens": 64}).steps
    open_ended = plan(train={"epochs": 3, "batch_tokens": 64})
    assert open_ended.steps is None
    assert "--data" in length(open_ended)


def test_huge_shapes_and_lengths_are_planned():
    values = {**PRESETS["gpt2-xl"], "train": {"batch_tokens": 524_288, "max_tokens": 10**12}}
    config = Config.model_validate({**values, "model": {**values["model"], "vocab_size": 50_257}})
    planned = Plan(policy.resolve(config, HERE, 50_257), HERE, speed=Speed(1000.0, "as given"))
    assert planned.parameters == 1_557_611_200
    assert planned.tokens >= 10**12
    assert not planned.fits
    text = "\n".join(summary(planned))
    assert "1T tokens" in text
    assert "take a smaller model" in text
    assert "more than a week" in text


@pytest.mark.parametrize(
    ("sentence", "changes"),
    [
        ("give --train.micro_batch_size", {"model": {**SMALL, "vocab_size": 10**6}, "memory": 2 * 10**9}),
        ("take a smaller model", {"memory": 10**6}),
        ("--checkpoint.keep_last 1", {"free_disk": 1000}),
        ("the training split 2.0 times; give --train.batch_tokens 32", {"data": DataSize(2, 0)}),
        ("arXiv:2305.16264", {"data": DataSize(4, 0)}),
        ("0.018 tokens per parameter", {}),
        ("a larger model would learn more", {"train": {"max_tokens": 10**10, "batch_tokens": 64}}),
        ("of the FLOPs are in the output head", {"model": {**SMALL, "vocab_size": 50_000}}),
        ("more than a week", {"speed": 1e-4}),
        ("optimizer.embedding_learning_rate: only read by Muon", {"optimizer": {"embedding_learning_rate": 0.1}}),
        ("optimizer.momentum: only read by Muon and SGD", {"optimizer": {"momentum": 0.9}}),
        (
            "optimizer.matrix_learning_rate: only read by Muon, so without effect with sgd",
            {"optimizer": {"name": "sgd", "momentum": 0.9, "matrix_learning_rate": 0.1}},
        ),
    ],
)
def test_each_warning_is_given_only_where_it_applies(sentence, changes):
    sane = plan(DataSize(10**6, 0), speed=1e6, train={"max_tokens": 10**6, "batch_tokens": 64})
    assert list(warnings(sane)) == []
    machine = replace(HERE, **{k: changes.pop(k) for k in ("memory", "free_disk") if k in changes})
    if "memory" in changes or machine.memory == 2 * 10**9:
        changes["train"] = {"max_steps": 10, "batch_tokens": 16 * 4096, "micro_batch_size": 4096}
    found = list(warnings(plan(changes.pop("data", None), machine, changes.pop("speed", None), **changes)))
    assert any(sentence in line for line in found), found


def test_keys_of_muon_alone_are_those_that_no_rule_of_adamw_reads():
    read = {rule.learning_rate for rule in RULES["adamw"].values()}
    rates = {rule.learning_rate for rule in RULES["muon"].values()}
    assert set(MUON_ONLY) == (rates - read) | {"momentum"}
    muon = {"name": "muon", **dict.fromkeys(MUON_ONLY, 0.5)}
    for reads in (muon, {"name": "sgd", "momentum": 0.5}):
        assert not any("Muon" in line for line in warnings(plan(optimizer=reads)))


MOST = dict.fromkeys(("n_layer", "n_embd", "n_inner", "block_size", "vocab_size", "vocab_multiple"), MAX_DIMENSION)
LEAST = {"n_layer": 1, "n_embd": 1, "n_inner": 1, "block_size": 2, "vocab_size": 1}


@pytest.mark.parametrize("speed", [MIN_TOKENS_PER_S, MAX_TOKENS_PER_S])
@pytest.mark.parametrize(
    ("model", "train"),
    [
        *((MOST, {"batch_tokens": 10**15, name: 10**15}) for name in ("max_steps", "max_tokens")),
        *((LEAST, {"batch_tokens": 2, name: 1}) for name in ("max_steps", "max_tokens")),
        (MOST, {"batch_tokens": 10**15, "epochs": 1e9}),
        (LEAST, {"batch_tokens": 10**15, "epochs": 5e-324}),
        (LEAST, {"batch_tokens": 2, "max_time": 1e10}),
        (LEAST, {"batch_tokens": 10**15, "max_time": "0." + 320 * "0" + "1"}),
    ],
)
def test_every_number_that_a_config_allows_can_be_planned(model, train, speed):
    data = DataSize(sequences=10**15, val_tokens=10**15)
    evaluate = {"every_steps": 1, "tokens": None}
    planned = plan(data, speed=speed, model={**model, "n_head": 1}, train=train, evaluate=evaluate)
    assert planned.steps >= 1
    assert all(math.isfinite(x) for x in (planned.seconds, planned.disk, planned.memory.total))
    assert summary(planned)
    assert table(planned, "as given", "")
    assert "Infinity" not in as_json(planned)


def test_the_advised_micro_batch_size_fits():
    machine = replace(HERE, memory=6 * 10**8)

    def with_size(n: int) -> Plan:
        train = {"max_steps": 9, "batch_tokens": 16 * 4096, "micro_batch_size": n}
        return plan(machine=machine, model={**SMALL, "vocab_size": 50_000}, train=train)

    (line,) = (line for line in warnings(with_size(4096)) if "micro_batch_size" in line)
    size = int(line.split()[-1])
    assert with_size(size).fits
    assert not with_size(4 * size).fits


def test_for_a_model_that_cannot_fit_one_that_fits_is_advised():
    huge = plan(machine=replace(HERE, memory=10**9), model={**SMALL, "n_layer": 4000, "n_embd": 960})
    (line,) = (line for line in warnings(huge) if "take a smaller model" in line)
    shape = dict(re.findall(r"--model.(\w+) (\d+)", line))
    assert plan(machine=huge.machine, model={**SMALL, **{key: int(value) for key, value in shape.items()}}).fits


@pytest.mark.parametrize(
    ("gigabytes", "batch_size", "expected"),
    [(139, 512, 64), (24, 512, 16), (139, 12, 12), (139, 7 * 13, 13), (1, 512, 7), (None, 512, 7)],
)
def test_a_gpu_gets_the_largest_micro_batch_that_fits_easily_and_divides_the_batch(gigabytes, batch_size, expected):
    model = {**PRESETS["gpt2"]["model"], "vocab_size": 50_257}
    gpu = Machine("cuda", "bf16", memory=gigabytes and gigabytes * 10**9, free_disk=10**12)
    found = plan(machine=gpu, model=model, train={"max_steps": 1, "batch_tokens": batch_size * 1024})
    assert found.micro_batch_size == expected
    assert expected == 7 or (batch_size % expected == 0 and found.memory.total <= gigabytes * 10**9 / 2)


def test_bf16_and_smaller_micro_batches_need_less_memory():
    many, few = (plan(train={"micro_batch_size": n, "max_steps": 1, "batch_tokens": 640}) for n in (40, 4))
    assert few.memory.activations * 10 == many.memory.activations
    model = many.config.model
    assert activation_bytes(model, "bf16") < activation_bytes(model, "fp32")
    assert loss_bytes(model, "fp32", 64) == 12 * 320 * 64
    assert few.memory.logits < many.memory.logits


def write_run(folder, config: Config, lines: list[str]) -> None:
    run = RunFolder(folder)
    run.create(config)
    run.log.write_text("\n".join(lines))


def test_the_median_speed_of_a_run_is_scaled_by_work(tmp_path):
    this, wider = plan(), plan(model={**SMALL, "n_embd": 64})
    records = [{"event": "step", "tokens_per_s": x} for x in (1, 50, 60, 70, 1000)] + [{"event": "eval"}]
    write_run(tmp_path / "run", this.config, [json.dumps(r) for r in records])
    assert Speed(*logged_speed(tmp_path / "run", this.flops)).tokens_per_s == 60
    scaled = Speed(*logged_speed(tmp_path / "run", wider.flops))
    assert scaled.tokens_per_s == pytest.approx(60 * this.flops / wider.flops)
    assert "scaled" in scaled.source


@pytest.mark.parametrize("found", ["1e-320", "0", "NaN", "Infinity"])
def test_an_impossible_speed_of_a_run_is_refused(found, tmp_path):
    write_run(tmp_path / "run", plan().config, [f'{{"event": "step", "tokens_per_s": {found}}}'])
    with pytest.raises(CheckpointError, match="give a run that has trained"):
        Speed(*logged_speed(tmp_path / "run", 1))


@pytest.mark.parametrize("lines", [[], ['{"event": "eval"}'], ['{"event": "step"}'], ['{"event": "step", "tok']])
def test_a_run_that_has_not_trained_has_no_speed(tmp_path, lines):
    write_run(tmp_path / "run", plan().config, lines)
    with pytest.raises(CheckpointError, match="give a run that has trained"):
        Speed(*logged_speed(tmp_path / "run", 1))


RESIDENT = """
import json, sys, torch
from groundup.config.schema import Config
from groundup.config.sections import MUON_ONLY
from groundup.model import build_model
from groundup.model.gpt import NextTokenLoss
from groundup.optim.optimizer import build_optimizer
config = Config.model_validate(json.loads(sys.argv[1]))
gpt = build_model(config.model).init_weights()
loss_sum, optimizer = NextTokenLoss(gpt), build_optimizer(gpt.named_parameters(), config.optimizer)
ids = torch.randint(config.model.vocab, (config.train.micro_batch_size, config.model.block_size))
accumulated = [ids] * (config.batch_size // config.train.micro_batch_size)
for micro_batches in ([ids[:1]], accumulated):  # the first step makes the optimizer state
    for piece in micro_batches:
        (loss_sum(piece, piece) / ids.numel()).backward()
    optimizer.step()
    optimizer.zero_grad()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak resident memory is read from /proc")
@pytest.mark.parametrize("vocab", [pytest.param(512, marks=pytest.mark.long), 50_257])
def test_planned_memory_is_near_what_a_real_step_takes(vocab):
    model = {"n_layer": 3, "n_head": 6, "n_embd": 384, "block_size": 128, "vocab_size": vocab}
    planned = plan(model=model, train={"micro_batch_size": 8, "max_steps": 1, "batch_tokens": 2 * 8 * 128})
    command = [sys.executable, "-c", RESIDENT, planned.config.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert planned.memory.total == pytest.approx(1024 * int(done.stdout), rel=0.25)


def from_preset(name: str, data: DataSize | None = None, vocab_size: int = 257, **sections) -> Plan:
    row = {**PRESETS[name], **{key: {**PRESETS[name].get(key, {}), **values} for key, values in sections.items()}}
    return Plan(policy.resolve(Config.model_validate(row), HERE, vocab_size), HERE, data)


LARGE = DataSize(sequences=10**6, val_tokens=10**6)
FEW = {"evaluate": {"tokens": 1000}}


@pytest.mark.parametrize(
    ("name", "sections", "sentence"),
    [
        ("gpt2-nano", {"train": {"max_steps": 60}, **FEW}, "the warm-up of 100 steps is longer than the run of 60"),
        ("gpt2-nano", {"train": {"max_steps": 150}, **FEW}, "the warm-up of 100 steps is 67% of the run of 150"),
        ("gpt2-nano", {"train": {"max_steps": 300}}, None),
        ("gpt2", {"train": {"batch_tokens": 65_536}}, "65,536 tokens per step are few for this learning rate, which"),
        ("gpt2", {"train": {"batch_tokens": 131_072}}, None),
        ("gpt2", {"train": {"batch_tokens": 65_536}, "optimizer": {"learning_rate": 1e-4}}, None),
        ("gpt2", {"train": {"batch_tokens": 65_536}, "schedule": {"warmup_steps": 60}}, None),  # made for this run
        (
            "gpt2-nano",
            {"evaluate": {"every_steps": 50}},
            "evaluations take 39% of the time; give --evaluate.tokens 9000",
        ),
        ("gpt2-nano", {"evaluate": {"every_steps": 200}}, None),
        ("fast", {}, "checkpoints of 1"),
        ("fast-small", {}, None),
        ("modern-micro", {}, None),
    ],
)
def test_presets_are_warned_of_where_they_are_misused(name, sections, sentence):
    found = [line for line in warnings(from_preset(name, LARGE, **sections)) if "tokens per parameter" not in line]
    found = [line for line in found if "of memory" not in line and "of disk" not in line]
    assert len(found) == bool(sentence), found
    assert all(line.startswith(sentence) for line in found)


@pytest.mark.parametrize(("sequences", "more"), [(500, "more text"), (10**6, "a longer run")])
def test_a_run_that_repeats_its_text_is_not_advised_to_be_longer(sequences, more):
    train = {"max_steps": 2000, "batch_tokens": 12_288}
    found = warnings(from_preset("gpt2", DataSize(sequences=sequences, val_tokens=1000), train=train, **FEW))
    (line,) = (line for line in found if "tokens per parameter" in line)
    assert line.endswith(f"a smaller model, or {more}, would learn more")


@pytest.mark.parametrize("every_steps", [1, 7, 50, 0])
def test_the_advised_evaluation_is_short_enough(every_steps):
    evaluate = {"every_steps": every_steps, "tokens": 100_000}
    steps = {"max_steps": 20} if not every_steps else {}
    before = from_preset("gpt2-nano", LARGE, evaluate=evaluate, train=steps)
    (line,) = (line for line in warnings(before) if line.startswith("evaluations take"))
    tokens = int(re.search(r"--evaluate.tokens (\d+)", line)[1]) if "--evaluate.tokens" in line else None
    assert before.evaluation_share > 1 / 3
    if tokens:
        after = from_preset("gpt2-nano", LARGE, evaluate=evaluate | {"tokens": tokens}, train=steps)
        assert after.evaluation_share < 0.15


@pytest.mark.parametrize(
    ("vocab_size", "advised"), [(50_257, "bpe:1024"), (4096, "bpe:1024"), (2048, "bpe:1024"), (1024, None), (257, None)]
)
def test_a_smaller_vocabulary_is_advised_only_where_there_is_one(vocab_size, advised):
    found = [line for line in warnings(from_preset("gpt2-nano", LARGE, vocab_size)) if "--tokenizer" in line]
    assert [line.rpartition("--tokenizer ")[2] for line in found] == ([advised] if advised else [])
    if advised:
        size = int(advised.removeprefix("bpe:"))
        assert not any("--tokenizer" in line for line in warnings(from_preset("gpt2-nano", LARGE, size)))


def test_a_model_whose_head_is_large_with_any_vocabulary_is_not_warned_of():
    narrow = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 64}
    assert not any("--tokenizer" in line for line in warnings(from_preset("gpt2-nano", LARGE, 4096, model=narrow)))


def test_numbers_have_as_many_digits_as_they_hold():
    run = plan(DataSize(30, 0), speed=7342.4, train={"max_steps": 175, "batch_tokens": 64})
    text = "\n".join(summary(replace(run, speed=Speed(7342.4, "estimated from 16 sequences"))))
    assert "175 steps = 23 epochs = 11.2K tokens, 0.31 tokens per parameter (compute-optimal: about 20)" in text
    assert "at 7,300 tokens/s, estimated" in text
    assert "horizon" not in text
    assert "Chinchilla" not in text
    assert "12,345 tokens/s, as given" in summary(replace(run, speed=Speed(12_345, "as given")))[4]
