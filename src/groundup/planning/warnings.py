"""Warnings before a run: likely failures and waste, each with a remedy."""

from collections.abc import Iterator
from dataclasses import replace

from groundup.config.merge import diff
from groundup.config.presets import PRESETS
from groundup.config.sections import MUON_ONLY, OptimizerConfig, ScheduleConfig
from groundup.model.memory import FP32
from groundup.model.size import counted
from groundup.planning.plan import Plan, times
from groundup.tokenizers.auto import BPE_SIZES
from groundup.ui.format import human_bytes, human_count, human_duration, human_figures

CHINCHILLA_RATIO = 20  # tokens per parameter, compute-optimal (arXiv:2203.15556)
MIN_TOKENS_PER_PARAMETER, MAX_TOKENS_PER_PARAMETER = 1, 10_000  # warn outside; Llama 3 8B had 1,875
# Repeated text is almost as good as new text for 4 epochs (arXiv:2305.16264); after 8, a small model gets worse on text
# that it has not seen.
MAX_EPOCHS = 8
MIN_STEPS = 300  # it takes some to learn anything, whatever the text
MAX_WARMUP_FRACTION = 0.5  # of the run
MAX_EVALUATION_SHARE, GOOD_EVALUATION_SHARE = 1 / 3, 0.1  # of the time
MAX_BATCH_RATIO = 8  # tokens per step that a preset's learning rate was made for, over those of the run
MIN_TABLE_BYTES = 50e6  # of n-gram tables in a checkpoint, before they are worth a warning
MAX_HEAD_SHARE = 0.5  # of the FLOPs
SMALLER_MODELS = ("gpt2-large", "gpt2-medium", "gpt2", "gpt2-mini", "gpt2-micro", "gpt2-nano")
WEEK_SECONDS = 7 * 24 * 3600


def warnings(plan: Plan) -> Iterator[str]:
    """Likely failures and waste, each with a remedy."""
    yield from too_large(plan)
    yield from _length_warnings(plan)
    yield from _head_warning(plan)
    yield from _optimizer_warnings(plan)
    yield from _evaluation_warning(plan)
    tables = FP32 * counted(plan.config.model)
    if tables > MIN_TABLE_BYTES and 2 * tables > plan.checkpoint_bytes:
        yield (
            f"checkpoints of {human_bytes(plan.checkpoint_bytes)} for {human_count(plan.parameters)} parameters: "
            f"{human_bytes(tables)} of each are n-gram tables; --checkpoint.keep_last 1 keeps fewer of them, and fewer "
            f"--model.ngram_rows ({plan.config.model.ngram_rows}) make them smaller"
        )
    if plan.seconds is not None and plan.seconds > WEEK_SECONDS:
        yield f"{human_duration(plan.seconds)} is more than a week; a smaller model, fewer tokens or a GPU shortens it"


def too_large(plan: Plan) -> Iterator[str]:
    """Warnings of too little memory and disk."""
    if not plan.fits:
        yield too_much_memory(plan)
    if plan.disk > plan.machine.free_disk:
        remedy = "free some, give --checkpoint.keep_last 1, or another --out"
        yield f"{human_bytes(plan.disk)} of disk are more than the {human_bytes(plan.machine.free_disk)} free; {remedy}"


def too_much_memory(plan: Plan) -> str:
    """Memory that the plan needs, memory of the machine, and a remedy."""
    available, rows = plan.machine.memory or 0, plan.micro_batch_size
    while rows > 1 and plan.memory_of(rows).total > available:
        rows //= 2
    remedy = f"give --train.micro_batch_size {rows}" if plan.memory_of(rows).total <= available else _smaller(plan)
    need = human_bytes(plan.memory.total, 2)
    return f"{need} of memory are more than the {human_bytes(available)} of this machine; {remedy}"


def _smaller(plan: Plan) -> str:
    """The largest size of GPT-2 that fits, with all other settings unchanged."""
    for name in SMALLER_MODELS:
        shape = {key: PRESETS[name]["model"][key] for key in ("n_layer", "n_head", "n_embd")}
        model = plan.config.model.model_copy(update=shape | {"n_inner": 4 * shape["n_embd"]})
        smaller = replace(plan, config=plan.config.model_copy(update={"model": model}))
        if smaller.fits and smaller.parameters < plan.parameters:
            options = " ".join(f"--model.{key} {value}" for key, value in shape.items())
            return f"take a smaller model: {options} fits"
    return "take a smaller model"


def _length_warnings(plan: Plan) -> Iterator[str]:
    """Of a run that is too long or too short for its text, its model or its warm-up."""
    c = plan.config
    if plan.data and c.batch_size > plan.data.sequences:
        often, fits = c.batch_size / plan.data.sequences, plan.data.sequences * c.model.block_size
        yield f"a step reads the training split {often:.1f} times; give --train.batch_tokens {fits}, or more text"
    epochs = plan.epochs or 0
    repeats = plan.data is not None and epochs > MAX_EPOCHS + 0.5
    if plan.data and repeats:
        is_long_enough = MAX_EPOCHS * plan.data.sequences >= MIN_STEPS * c.batch_size
        yield (
            f"{human_figures(epochs)} epochs: repeating the same text helps little after 4 to {MAX_EPOCHS} "
            f"(arXiv:2305.16264); give more text{f', or --train.epochs {MAX_EPOCHS}' if is_long_enough else ''}"
        )
    ratio = plan.tokens_per_parameter
    if ratio is not None and ratio < MIN_TOKENS_PER_PARAMETER and not c.init_from:  # pretrained weights have seen text
        more = "more text" if repeats else "a longer run"
        yield f"{human_figures(ratio)} tokens per parameter: a smaller model, or {more}, would learn more"
    if ratio is not None and ratio > MAX_TOKENS_PER_PARAMETER:
        yield f"{human_figures(ratio)} tokens per parameter: a larger model would learn more from the same text"
    warmup = _warmup_steps(plan)
    if plan.steps and warmup > MAX_WARMUP_FRACTION * plan.steps:
        much = "is longer than" if warmup > plan.steps else f"is {warmup / plan.steps:.0%} of"
        yield (
            f"the warm-up of {warmup:,.0f} steps {much} the run of {plan.steps:,}, so little is trained at the peak "
            "learning rate; give --schedule.warmup_fraction 0.1"
        )


def _warmup_steps(plan: Plan) -> float:
    schedule, steps = plan.config.schedule, plan.steps or 0
    if schedule.warmup_tokens is not None:
        return schedule.warmup_tokens / plan.config.train.batch_tokens
    return float(schedule.warmup_steps or (schedule.warmup_fraction or 0.0) * steps)


def _head_warning(plan: Plan) -> Iterator[str]:
    """Of a vocabulary that takes most of the work, where a smaller one would not; few ids are no mistake."""
    if plan.head_share <= MAX_HEAD_SHARE:
        return
    model, body = plan.config.model, plan.flops * (1 - plan.head_share)  # FLOPs of all but the head
    most = min(model.vocab - 1, body * MAX_HEAD_SHARE / (1 - MAX_HEAD_SHARE) / (6 * model.n_embd), BPE_SIZES[1])
    size = 1 << max(0, int(most).bit_length() - 1)
    if size >= BPE_SIZES[0]:
        yield (
            f"{plan.head_share:.0%} of the FLOPs are in the output head: {model.vocab:,} ids are many for width "
            f"{model.n_embd}; prepare the data with a smaller vocabulary, such as --tokenizer bpe:{size}"
        )


def _optimizer_warnings(plan: Plan) -> Iterator[str]:
    """Of learning rates that are not used, or were made for far larger steps."""
    c = plan.config
    name, follows = c.optimizer.name, OptimizerConfig(learning_rate=c.optimizer.learning_rate)
    given = [key for key in diff(follows, c.optimizer) if getattr(c.optimizer, key) != c.optimizer.learning_rate]
    unread = [] if name == "muon" else [key for key in MUON_ONLY if key in given and (key, name) != ("momentum", "sgd")]
    if unread:
        readers = "Muon and SGD" if unread == ["momentum"] else "Muon"
        yield (
            f"optimizer.{' and '.join(unread)}: only read by {readers}, so without effect with {name}; "
            "give --optimizer.name muon, or set optimizer.learning_rate"
        )
    batch, block_size = c.train.batch_tokens, c.model.block_size
    made_for = _batch_of_learning_rate(c.recorded.optimizer, c.recorded.schedule) // block_size * block_size
    if made_for >= MAX_BATCH_RATIO * batch:
        is_large_enough = plan.data is None or plan.data.sequences * block_size > made_for
        larger = f"give --train.batch_tokens {made_for}, or " if is_large_enough else ""
        yield (
            f"{batch:,} tokens per step are few for this learning rate, which was made for {made_for:,}; "
            f"{larger}find a lower rate with `groundup tune lr`"
        )


def _batch_of_learning_rate(optimizer: OptimizerConfig, schedule: ScheduleConfig) -> int:
    """Tokens per step of the preset with this learning rate and warm-up, the fewest of several; 0 without one."""

    def rates(optimizer: OptimizerConfig, schedule: ScheduleConfig) -> tuple[object, ...]:
        return optimizer.name, optimizer.learning_rate, optimizer.matrix_learning_rate, schedule.warmup_steps

    wanted = rates(optimizer, schedule)
    found = [
        row["train"]["batch_tokens"]
        for row in PRESETS.values()
        if rates(OptimizerConfig(**row["optimizer"]), ScheduleConfig(**row["schedule"])) == wanted
    ]
    return min(found, default=0)


def _evaluation_warning(plan: Plan) -> Iterator[str]:
    share = plan.evaluation_share
    if share is None or share <= MAX_EVALUATION_SHARE or plan.tokens is None or plan.steps is None:
        return
    n = times(plan.steps, plan.config.evaluate.every_steps)
    all_tokens = plan.tokens * GOOD_EVALUATION_SHARE / (1 - GOOD_EVALUATION_SHARE)
    tokens = int(float(f"{all_tokens / n * 3 / 2 / 2:.1g}"))  # a forward pass is a third of the work; of two splits
    is_enough = tokens >= plan.config.model.block_size
    remedy = f"give --evaluate.tokens {tokens}" if is_enough else "give a longer run"
    fewer = ", or a larger --evaluate.every_steps" if n > 1 else ""
    yield f"evaluations take {share:.0%} of the time; {remedy}{fewer}"
