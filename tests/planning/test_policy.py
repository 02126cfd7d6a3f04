"""Rules for every `auto` and every value that a user may leave open."""

from dataclasses import replace

import pytest

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.model import ModelConfig
from groundup.config.presets import PRESETS
from groundup.config.resolved import ResolvedConfig
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.planning.memory import Machine
from groundup.planning.plan import Plan
from groundup.planning.policy import (
    CHECKPOINTED_NUMBERS,
    GPU_MEMORY_FRACTION,
    GPU_MICRO_BATCH_TOKENS,
    MICRO_BATCH_TOKENS,
    checkpointing,
    fill_gpu,
    micro_batch_size,
    microbatch_threads,
    resolve,
    thread_choices,
    thread_counts,
)

CPU = Machine("cpu", "fp32", memory=16 * 10**9, free_disk=10**12, threads=4)
GPU = Machine("cuda", "bf16", memory=80 * 10**9, free_disk=10**12, threads=8)
GPT2 = {**PRESETS["gpt2"]["model"], "vocab_size": 50_257}
TINY = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16}


def config(model=TINY, batch_size=8, **sections) -> Config:
    train = {"batch_tokens": batch_size * model["block_size"], "max_steps": 1, **sections.pop("train", {})}
    return Config.model_validate({"model": model, "train": train, **sections})


def resolved(machine=CPU, **changes) -> ResolvedConfig:
    return resolve(config(**changes), machine, 50_257 if changes.get("model") is GPT2 else 300)


def test_the_machine_decides_device_precision_and_threads():
    train = resolved(replace(CPU, precision="bf16", threads=3)).train
    assert (train.device, train.precision, train.threads) == ("cpu", "bf16", 3)
    assert resolved(replace(GPU, device_name="cuda:2")).train.device == "cuda:2"
    assert resolved(GPU).train.device == "cuda"


def test_the_vocabulary_is_the_tokenizers_and_the_feed_forward_layer_four_times_as_wide():
    model = resolved().model
    assert (model.vocab_size, model.n_inner) == (300, 64)
    assert resolved(model={**TINY, "n_inner": 40}).model.n_inner == 40


def test_every_role_has_a_peak_learning_rate():
    rates = resolved(optimizer={"learning_rate": 0.01}).optimizer
    assert (rates.embedding_learning_rate, rates.head_learning_rate) == (0.01, 0.01)
    rates = resolved(optimizer={"learning_rate": 0.01, "embedding_learning_rate": 0.2}).optimizer
    assert (rates.embedding_learning_rate, rates.head_learning_rate) == (0.2, 0.01)


@pytest.mark.parametrize(
    ("schedule", "cooldown", "warmup"),
    [
        ({"name": "wsd", "warmup_steps": 2}, 0.4, None),
        ({"name": "wsd", "cooldown_steps": 3}, None, None),
        ({"name": "onecycle", "warmup_steps": None}, None, 0.3),
        ({"name": "onecycle", "warmup_steps": 5}, None, None),
        ({"name": "cosine"}, None, None),
    ],
)
def test_wsd_has_a_cooldown_and_onecycle_a_warm_up(schedule, cooldown, warmup):
    found = resolved(schedule=schedule).schedule
    assert (found.cooldown_fraction, found.warmup_fraction) == (cooldown, warmup)


@pytest.mark.parametrize(
    ("batch_size", "given", "threads", "expected"),
    [
        (8, 3, (), 3),  # as given
        (8, 30, (), 8),  # but no more than a batch
        (8, None, (4,), 8),  # a batch that fits is one micro-batch
        (4000, None, (), MICRO_BATCH_TOKENS // 16),
        (4000, None, (3,), MICRO_BATCH_TOKENS // 16 - 1),  # equally many sequences per thread
    ],
)
def test_default_micro_batch_sizes(batch_size, given, threads, expected):
    assert micro_batch_size(config(batch_size=batch_size, train={"micro_batch_size": given}), threads) == expected


def test_a_large_model_has_smaller_micro_batches_of_at_least_one_sequence():
    assert micro_batch_size(config(GPT2, 64), ()) == 7
    assert micro_batch_size(config({**GPT2, "n_layer": 1000}, 64), ()) == 1
    assert micro_batch_size(config({**GPT2, "n_layer": 1000}, 64), (4, 2)) == 1


@pytest.mark.parametrize(
    ("total", "counts"), [(1, ()), (2, (2,)), (3, (3,)), (4, (4, 2)), (5, ()), (6, (3, 2)), (12, (4, 3, 2))]
)
def test_up_to_four_threads_are_used_if_they_divide_all_threads(total, counts):
    assert thread_counts(total) == counts


@pytest.mark.parametrize(
    ("model", "train", "choices"),
    [
        ({}, {}, (4, 2)),
        ({"dropout": 0.1}, {}, ()),
        ({}, {"device": "cuda"}, ()),
        ({}, {"compile": "on"}, ()),
        ({}, {"microbatch_threads": 3}, (3,)),
        ({}, {"microbatch_threads": 9}, (4,)),  # no more than there are
        ({}, {"threads": None}, ()),
    ],
)
def test_micro_batches_are_divided_on_a_cpu_without_dropout_or_compiler(model, train, choices):
    assert (
        thread_choices(ModelConfig(**TINY, **model), TrainConfig(**{"device": "cpu", "threads": 4, **train})) == choices
    )


@pytest.mark.parametrize(
    ("choices", "sequences", "processes", "expected"),
    [((4, 2), 8, 1, 4), ((4, 2), 6, 1, 2), ((4, 2), 7, 1, 1), ((), 8, 1, 1), ((4, 2), 8, 2, 1), ((4, 2), 2, 1, 2)],
)
def test_the_first_number_of_threads_that_divides_the_sequences(choices, sequences, processes, expected):
    assert microbatch_threads(choices, sequences, processes) == expected


@pytest.mark.parametrize(
    ("train", "decided"), [({}, "selective"), ({"device": "cuda"}, "none"), ({"compile": "on"}, "none")]
)
def test_large_passes_on_a_cpu_recompute_activations(train, decided):
    model = ModelConfig(n_layer=2, n_head=4, n_embd=256, block_size=128)
    train = TrainConfig(**{"device": "cpu", "threads": 2, **train})
    least = 2 * CHECKPOINTED_NUMBERS // (256 * 128)
    assert least == 16
    assert checkpointing(model, train, least) == decided
    assert checkpointing(model, train, least - 2) == "none"


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_a_given_activation_checkpointing_is_kept(mode):
    assert checkpointing(ModelConfig(**GPT2), TrainConfig(device="cpu", activation_checkpointing=mode), 64) == mode
    assert resolved(train={"activation_checkpointing": mode}).train.activation_checkpointing == mode


@pytest.mark.parametrize(
    ("gigabytes", "batch_size", "expected"),
    [(139, 512, 64), (24, 512, 16), (139, 12, 12), (139, 7 * 13, 13), (1, 512, 7), (None, 512, 7), (139, 11, 11)],
)
def test_a_gpu_gets_the_largest_micro_batch_that_divides_the_batch_and_fits_easily(gigabytes, batch_size, expected):
    gpu = replace(GPU, memory=gigabytes and gigabytes * 10**9)
    base = config(GPT2, batch_size, train={"device": "cuda", "threads": 8})
    assert fill_gpu(base, gpu, 7) == expected
    found = resolved(gpu, model=GPT2, batch_size=batch_size)
    assert found.train.micro_batch_size == expected
    if expected > 7:
        assert batch_size % expected == 0
        assert expected * 1024 <= GPU_MICRO_BATCH_TOKENS
        assert Plan(found, gpu).memory.total <= GPU_MEMORY_FRACTION * gpu.memory


def test_filling_a_gpu_never_makes_the_micro_batch_smaller():
    base = config(GPT2, 512, train={"device": "cuda", "threads": 8})
    assert fill_gpu(base, replace(GPU, memory=10**9), 9) == 9
    assert fill_gpu(base, replace(GPU, memory=139 * 10**9), 100) == 100


def test_a_given_micro_batch_size_is_not_filled_up():
    assert resolved(GPU, model=GPT2, batch_size=64, train={"micro_batch_size": 2}).train.micro_batch_size == 2


def test_each_of_several_gpus_is_filled_by_its_part_of_the_batch():
    found = resolved(replace(GPU, memory=139 * 10**9, processes=8), model=GPT2, batch_size=512)
    assert found.train.micro_batch_size == 64
    found = resolved(replace(GPU, memory=139 * 10**9, processes=8), model=GPT2, batch_size=96)
    assert found.train.micro_batch_size == 12


@pytest.mark.parametrize(
    ("machine", "given", "expected"),
    [
        (CPU, "fsdp", "none"),
        (CPU, "auto", "none"),
        (replace(GPU, processes=2), "ddp", "ddp"),
        (replace(GPU, processes=2), "fsdp", "fsdp"),
        (replace(GPU, processes=2), "auto", "ddp"),
        (replace(GPU, processes=2, memory=2 * 10**9), "auto", "fsdp"),
        (replace(GPU, processes=2, memory=2 * 10**9), "ddp", "ddp"),
        (replace(GPU, processes=2, memory=None), "auto", "ddp"),
    ],
)
def test_weights_are_sharded_only_where_they_do_not_fit(machine, given, expected):
    assert resolved(machine, model=GPT2, train={"parallel": given, "micro_batch_size": 1}).train.parallel == expected


def test_micro_batches_are_not_divided_if_the_gradients_do_not_fit():
    changes = {"batch_size": 16, "train": {"micro_batch_size": 8}}
    shared = resolved(CPU, **changes)
    assert shared.train.microbatch_threads == 4
    alone = resolved(CPU, **{**changes, "train": {"micro_batch_size": 8, "microbatch_threads": 1}})
    tight = replace(CPU, memory=Plan(alone, CPU).memory.total)
    assert not Plan(shared, tight).fits
    assert resolved(tight, **changes).train.microbatch_threads == 1
    given = resolved(tight, **{**changes, "train": {"micro_batch_size": 8, "microbatch_threads": 4}})
    assert given.train.microbatch_threads == 4


def test_a_default_micro_batch_divides_among_its_threads():
    found = resolved(CPU, model={**TINY, "n_embd": 64}, batch_size=4001).train
    assert found.micro_batch_size % found.microbatch_threads == 0


@pytest.mark.parametrize(("epochs", "steps"), [(1, 13), (0.5, 7), (0.001, 1), (3, 38)])
def test_intervals_in_epochs_become_steps_once_the_data_is_known(epochs, steps):
    asked = config(evaluate={"every_epochs": epochs, "every_steps": 0}, checkpoint={"every_epochs": 2 * epochs})
    found = resolve(asked, CPU, 300, epoch_sequences=100)  # of 8 per step
    assert (found.evaluate.every_steps, found.checkpoint.every_steps) == (steps, -(-int(200 * epochs) // 8) or 1)
    assert found.recorded.evaluate == asked.evaluate, "a longer run resumed on other settings follows"
    assert resolve(asked, CPU, 300).evaluate.every_steps == 0


def test_the_interval_that_is_given_last_counts():
    file = ConfigSource("file", {"train": {"max_steps": 1}, "evaluate": {"every_epochs": 1}})
    steps = ConfigSource("options", {"evaluate": {"every_steps": 4}})
    for sources, expected in (([file], 13), ([file, steps], 4), ([file, steps, file], 13)):
        found = merge_and_validate(sources)
        assert resolve(found, CPU, 300, epoch_sequences=13 * found.batch_size).evaluate.every_steps == expected
