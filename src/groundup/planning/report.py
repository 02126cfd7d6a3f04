"""Plans as text and JSON: the summary before a run, the table of `groundup plan`, clusters, warnings with remedies."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from groundup.config.merge import diff
from groundup.config.presets import PRESETS
from groundup.config.sections import MUON_ONLY, OptimizerConfig
from groundup.errors import ConfigError
from groundup.optim.run_length import TimeLength
from groundup.planning.gpus import GPU
from groundup.planning.memory import Memory
from groundup.planning.plan import Plan, Speed
from groundup.ui.format import human_bytes, human_count, human_time, json_line

CHINCHILLA_RATIO = 20  # tokens per parameter, compute-optimal (arXiv:2203.15556)
MIN_TOKENS_PER_PARAMETER, MAX_TOKENS_PER_PARAMETER = 1, 10_000  # warn outside; Llama 3 8B had 1,875
MAX_USEFUL_EPOCHS = 4  # repeated text is almost as good as new text up to here (arXiv:2305.16264)
SMALLER_MODELS = ("gpt2-large", "gpt2-medium", "gpt2", "gpt2-mini", "gpt2-micro", "gpt2-nano")
WEEK_SECONDS = 7 * 24 * 3600
RECOMPUTE_SPEED = 3 / 4  # of the MFU, when every block is computed twice: 8 operations per weight and token, not 6
Parallel = Literal["ddp", "fsdp"]
PARALLEL: tuple[Parallel, ...] = get_args(Parallel)
LARGE_CLUSTER_GPUS = 64  # from which on published runs lose speed that an MFU of 8 GPUs does not show


def summary(plan: Plan, *, advise: bool = True) -> list[str]:
    """Six lines, then one per warning; without `advise` only warnings of too little memory or disk."""
    c, m = plan.config, plan.config.model
    shape = f"{m.n_layer} layers, {m.n_head} heads, {m.n_embd} wide, context {m.block_size}, vocabulary {m.vocab:,}"
    n = plan.machine.processes
    split = f" in {plan.micro_batches} micro-batches" if plan.micro_batches > 1 else ""
    split += f" on each of {n} processes" if n > 1 else ""
    threads = c.train.microbatch_threads
    split += f", {threads} threads" if threads > 1 else ""
    work = f"{plan.flops * c.train.batch_tokens / 1e9:,.0f} GFLOP"
    return [
        f"model    {shape}: {plan.parameters:,} parameters",
        f"step     {c.batch_size} sequences x {m.block_size} = {c.train.batch_tokens:,} tokens{split}, {work}",
        f"length   {length(plan)}",
        f"memory   {_memory(plan.memory)}",
        f"time     {duration(plan)}",
        f"disk     {disk(plan)}",
        *(f"warning  {line}" for line in (warnings(plan) if advise else _too_large(plan))),
    ]


def length(plan: Plan) -> str:
    """Run length in steps, epochs and tokens, as far as known."""
    about = "about " if isinstance(plan.run_length, TimeLength) else ""
    clock = human_time(plan.run_length.seconds) if isinstance(plan.run_length, TimeLength) else ""
    if plan.steps is None or plan.tokens is None or plan.tokens_per_parameter is None:
        return clock or f"{plan.epochs:g} epochs; give --data to know how many steps that is"
    epochs = f" = {plan.epochs:,.2f} epochs" if plan.data and plan.epochs is not None else ""
    each = plan.tokens_per_parameter
    ratio = f"{f'{each:,.1f}' if each >= 1 else f'{each:.2g}'} per parameter (Chinchilla: {CHINCHILLA_RATIO})"
    start = f"{clock}, {about}" if clock else ""
    return f"{start}{plan.steps:,} steps{epochs} = {human_count(plan.tokens)} tokens, {ratio}"


def _memory(m: Memory) -> str:
    """Total, and the parts that are not zero, the largest first."""
    parts = sorted(((size, name) for name, size in asdict(m).items() if name != "accumulates" and size), reverse=True)
    return f"{human_bytes(m.total)}: {', '.join(f'{name} {human_bytes(size)}' for size, name in parts)}"


def duration(plan: Plan) -> str:
    """Estimated time, and the source of the speed."""
    if plan.speed is None:
        return "unknown: no speed was measured"
    rate = f"{plan.speed.tokens_per_s:,.0f}" if plan.speed.tokens_per_s >= 10 else f"{plan.speed.tokens_per_s:.2g}"
    speed = f"{rate} tokens/s, {plan.speed.source}"
    if plan.seconds is None:
        return speed
    about = "" if isinstance(plan.run_length, TimeLength) else "about "
    evaluations = (plan.evaluation_seconds or 0) / plan.seconds
    share = f"; evaluations are {min(1.0, evaluations):.0%} of it" if evaluations >= 0.005 else ""
    return f"{about}{human_time(plan.seconds)} at {speed}{share}"


def disk(plan: Plan) -> str:
    """Maximum size of the run's folder."""
    log = f", log {human_bytes(plan.log_bytes)}" if plan.log_bytes else ""
    many = f"{plan.checkpoints} checkpoints" if plan.checkpoints > 1 else "1 checkpoint"
    return f"{human_bytes(plan.disk)} at most: {many} of {human_bytes(plan.checkpoint_bytes)}{log}"


def warnings(plan: Plan) -> Iterator[str]:
    """Likely failures and waste, each with a remedy."""
    yield from _too_large(plan)
    c, m = plan.config, plan.config.model
    if plan.data and c.batch_size > plan.data.sequences:
        often, fits = c.batch_size / plan.data.sequences, plan.data.sequences * m.block_size
        yield f"a step reads the training split {often:.1f} times; give --train.batch_tokens {fits}, or more text"
    if plan.data and plan.epochs is not None and plan.epochs > MAX_USEFUL_EPOCHS:
        yield (
            f"{plan.epochs:,.1f} epochs: after about {MAX_USEFUL_EPOCHS}, repeating the same text helps little "
            f"(arXiv:2305.16264); give more text, or --train.epochs {MAX_USEFUL_EPOCHS}"
        )
    ratio = plan.tokens_per_parameter
    if ratio is not None and ratio < MIN_TOKENS_PER_PARAMETER and not c.init_from:  # pretrained weights have seen text
        yield f"{ratio:.2g} tokens per parameter: a smaller model, or a longer run, would learn more"
    if ratio is not None and ratio > MAX_TOKENS_PER_PARAMETER:
        yield f"{ratio:,.0f} tokens per parameter: a larger model would learn more from the same text"
    if plan.head_share > 0.5:
        yield (
            f"{plan.head_share:.0%} of the FLOPs are in the output head: {m.vocab:,} ids are many for width "
            f"{m.n_embd}; prepare the data with a smaller vocabulary, such as --tokenizer bpe:4096"
        )
    name, follows = c.optimizer.name, OptimizerConfig(learning_rate=c.optimizer.learning_rate)
    given = [key for key in diff(follows, c.optimizer) if getattr(c.optimizer, key) != c.optimizer.learning_rate]
    unread = [] if name == "muon" else [key for key in MUON_ONLY if key in given and (key, name) != ("momentum", "sgd")]
    if unread:
        readers = "Muon and SGD" if unread == ["momentum"] else "Muon"
        yield (
            f"optimizer.{' and '.join(unread)}: only read by {readers}, so without effect with {name}; "
            "give --optimizer.name muon, or set optimizer.learning_rate"
        )
    if plan.seconds is not None and plan.seconds > WEEK_SECONDS:
        yield f"{human_time(plan.seconds)} is more than a week; a smaller model, fewer tokens or a GPU shortens it"


def too_much_memory(plan: Plan) -> str:
    """Memory that the plan needs, memory of the machine, and a remedy."""
    available, rows = plan.machine.memory or 0, plan.micro_batch_size
    while rows > 1 and plan.memory_of(rows).total > available:
        rows //= 2
    remedy = f"give --train.micro_batch_size {rows}" if plan.memory_of(rows).total <= available else _smaller(plan)
    need = human_bytes(plan.memory.total)
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


def _too_large(plan: Plan) -> Iterator[str]:
    if not plan.fits:
        yield too_much_memory(plan)
    if plan.disk > plan.machine.free_disk:
        remedy = "free some, give --checkpoint.keep_last 1, or another --out"
        yield f"{human_bytes(plan.disk)} of disk are more than the {human_bytes(plan.machine.free_disk)} free; {remedy}"


def table(plan: Plan, vocabulary: str, machine: str) -> str:
    """All numbers, one per line, each with its source; `groundup plan --help` has the formulas."""
    c, m, use = plan.config, plan.config.model, plan.memory
    tied = "also the head" if m.tie_embeddings else ""
    held = {
        "weights": "fp32",
        "gradients": "" if use.accumulates else "replace activations during the backward pass, so not added",
        "optimizer": c.optimizer.name,
        "activations": f"of {plan.micro_batch_size} x {m.block_size} tokens",
        "logits": "computed in chunks, and the gradient of the head",
        **({"program": "and allocator overhead"} if use.program else {}),
    }
    batches = f"{plan.micro_batches} micro-batch{'es' if plan.micro_batches > 1 else ''}"
    rows = [
        ("parameters", f"{plan.parameters:,}", f"vocabulary {m.vocab:,}: {vocabulary}"),
        *((f"  {name}", f"{n:,}", tied if name == "token embedding" else "") for name, n in plan.parts.items()),
        *([("  padding", f"{plan.padding:,}", f"not counted: rows up to {m.padded_vocab:,}")] if plan.padding else []),
        ("FLOPs per token", human_count(plan.flops), f"{plan.head_share:.0%} of them in the head"),
        ("", "", ""),
        ("memory", human_bytes(use.total), machine or f"{plan.machine.device}, {plan.machine.precision}"),
        *((f"  {name}", human_bytes(getattr(use, name)), how) for name, how in held.items()),
        ("", "", ""),
        ("step", f"{c.train.batch_tokens:,} tokens", f"{c.batch_size} sequences in {batches}"),
        ("length", length(plan), ""),
        ("time", duration(plan), ""),
        ("disk", disk(plan), ""),
    ]
    left, right = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows if row[2])
    lines = [
        f"{name:<{left}}  {value:>{right}}  {how}".rstrip() if len(value) <= right else f"{name:<{left}}  {value}"
        for name, value, how in rows
    ]
    return "\n".join([*lines, *(f"\nwarning: {line}" for line in warnings(plan))])


def as_json(plan: Plan) -> str:
    """The plan as one JSON object; unknown values are null. Sizes in bytes, times in seconds."""
    values: dict[str, Any] = {"parameters": plan.parameters, "parameters_by_part": plan.parts, "padding": plan.padding}
    values |= {"vocab_size": plan.config.model.vocab, "flops_per_token": plan.flops, "head_share": plan.head_share}
    values |= _attributes(plan.machine, "device", "precision") | {"memory": _memory_json(plan.memory)}
    values |= _attributes(plan, "steps", "tokens", "epochs", "tokens_per_parameter")
    values["tokens_per_s"] = plan.speed.tokens_per_s if plan.speed else None
    values["speed_source"] = plan.speed.source if plan.speed else None
    values |= _attributes(plan, "seconds", "evaluation_seconds", "disk", "checkpoints", "checkpoint_bytes", "log_bytes")
    return json_line(values | {"warnings": list(warnings(plan))})


def _attributes(source: object, *names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _memory_json(memory: Memory) -> dict[str, int]:
    return {"total": memory.total, **asdict(memory)}


@dataclass(frozen=True)
class ClusterPlan:
    """A run on `nodes` nodes of `per_node` equal GPUs: memory, speed and hours from the speed of one GPU.

    Time for communication is only included as far as `one` was measured with it.
    """

    plan: Plan
    gpu: GPU
    nodes: int
    per_node: int
    one: Speed  # of one GPU

    @property
    def gpus(self) -> int:
        return self.nodes * self.per_node

    @property
    def run(self) -> Plan:
        """The plan at the speed of all GPUs. The GPU with the most sequences sets the time of a step."""
        size = self.plan.config.batch_size
        busy = size / -(-size // self.gpus)
        return replace(self.plan, speed=Speed(busy * self.one.tokens_per_s, self.one.source))

    def memory(self, parallel: Parallel) -> Memory:
        """Bytes per GPU."""
        train = self.plan.config.train.model_copy(update={"parallel": parallel})
        config = self.plan.config.model_copy(update={"train": train})
        return replace(self.plan, config=config, machine=replace(self.plan.machine, processes=self.gpus)).memory

    @property
    def seconds(self) -> float:
        """Time for training and evaluations. ConfigError when the run is given in epochs and there are no data."""
        if (seconds := self.run.seconds) is None:
            raise ConfigError("train.epochs: how many tokens that is cannot be known without --data; give --tokens 10B")
        return seconds


def assumed_speed(plan: Plan, gpu: GPU, mfu: float | None = None) -> Speed:
    """Speed of one GPU: the given `mfu`, or the published one, times peak over FLOPs per token."""
    if mfu is not None:
        return Speed(mfu * gpu.peak / plan.flops, f"an MFU of {mfu:.1%}, as given")
    source = f"an MFU of {gpu.mfu:.1%}, {gpu.mfu_source}"
    if plan.config.train.activation_checkpointing != "full":
        return Speed(gpu.mfu * gpu.peak / plan.flops, source)
    source += f", times {RECOMPUTE_SPEED:g} for activation checkpointing"
    return Speed(RECOMPUTE_SPEED * gpu.mfu * gpu.peak / plan.flops, source)


def cluster_table(cluster: ClusterPlan) -> str:
    """All numbers of the run on the cluster, one per line."""
    run, seconds, nodes, gpus = cluster.run, cluster.seconds, cluster.nodes, cluster.gpus
    assert run.speed is not None, "`run` sets it"
    hardware = f"{nodes:,} node{'s' if nodes > 1 else ''} x {cluster.per_node} {cluster.gpu.name.upper()}"
    rate = f"{run.speed.tokens_per_s:,.0f} tokens/s, {cluster.one.tokens_per_s:,.0f} per busy GPU"
    lines = [
        f"model    {run.parameters:,} parameters, {human_count(run.flops)} FLOPs per token",
        f"cluster  {hardware} = {gpus:,} GPU{'s' if gpus > 1 else ''}",
        f"length   {length(run)}",
        f"speed    {rate}, from {cluster.one.source}",
        f"time     {seconds / 3600:,.2f} hours, {seconds / 3600 * gpus:,.0f} GPU hours; failures and saving left out",
        *(f"{name:<7}  {_per_gpu(cluster, name)}" for name in PARALLEL),
        f"disk     {disk(run)}",
    ]
    return "\n".join([*lines, *(f"\nwarning: {line}" for line in cluster_warnings(cluster))])


def _per_gpu(cluster: ClusterPlan, parallel: Parallel) -> str:
    memory = cluster.memory(parallel)
    verdict = "fits" if memory.total <= cluster.gpu.memory else "does not fit"
    total, _, parts = _memory(memory).partition(": ")
    return f"{total} per GPU, {verdict} {human_bytes(cluster.gpu.memory)}: {parts}"


def cluster_warnings(cluster: ClusterPlan) -> Iterator[str]:
    """Warnings of too little memory, idle GPUs and unplanned communication, each with a remedy."""
    config, gpus = cluster.plan.config, cluster.gpus
    least = min(cluster.memory(name).total for name in PARALLEL)
    if least > cluster.gpu.memory:
        remedy = "give --train.micro_batch_size 1, --train.activation_checkpointing full, or a GPU with more"
        yield f"{human_bytes(least)} are more than the {human_bytes(cluster.gpu.memory)} of a GPU; {remedy}"
    if config.batch_size < gpus:
        most = config.batch_size // cluster.per_node
        fewer = f"--nodes {most:,} at most" if most else "fewer GPUs"
        yield (
            f"train.batch_tokens: {config.train.batch_tokens:,} are {config.batch_size:,} sequences of "
            f"{config.model.block_size}, fewer than {gpus:,} GPUs, so {gpus - config.batch_size:,} GPUs would be idle; "
            f"give --train.batch_tokens {gpus * config.model.block_size}, or {fewer}"
        )
    if gpus >= LARGE_CLUSTER_GPUS:
        yield (
            "communication between nodes and stragglers are not planned: published runs on 512 GPUs lost up to 12 % "
            "of the speed per GPU; take the hours as a lower bound, or give an --mfu measured on as many GPUs"
        )


def cluster_json(cluster: ClusterPlan) -> str:
    """The cluster plan as one JSON object. Sizes in bytes, times in seconds."""
    run, gpu = cluster.run, cluster.gpu
    values: dict[str, Any] = {"parameters": run.parameters, "flops_per_token": run.flops}
    values["cluster"] = _attributes(cluster, "nodes", "per_node", "gpus") | {"gpu": gpu.name}
    values |= {"gpu_tokens_per_s": cluster.one.tokens_per_s, "gpu_speed_source": cluster.one.source}
    values |= {"tokens_per_s": run.speed.tokens_per_s if run.speed else None, "seconds": cluster.seconds}
    values |= _attributes(run, "steps", "tokens", "checkpoint_bytes", "disk")
    for name in PARALLEL:
        memory = cluster.memory(name)
        values[name] = {"fits": memory.total <= gpu.memory, "memory": _memory_json(memory)}
    return json_line(values | {"warnings": list(cluster_warnings(cluster))})
