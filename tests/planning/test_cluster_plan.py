"""A plan for a cluster: laws of its arithmetic, published runs, and the command line."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import pytest

from groundup.cli import main
from groundup.cli.plan import EPILOG, parse_tokens
from groundup.config.schema import Config
from groundup.errors import ConfigError, UsageError
from groundup.model.size import flops_per_token, parameters
from groundup.planning.cluster import (
    BACKWARD,
    ClusterPlan,
    assumed_speed,
    efficiency,
    exposed_seconds,
    predicted_speed,
    token_bytes,
    usual,
)
from groundup.planning.cluster_words import cluster_json, cluster_table, cluster_warnings
from groundup.planning.gpus import ATTAINED, GPUS, communication_seconds, ring_bytes
from groundup.planning.plan import Machine, Plan, Speed

H100 = GPUS["h100"]
XL = {"n_layer": 48, "n_head": 25, "n_embd": 1600, "block_size": 1024, "vocab_size": 50_257}


def cluster_plan(
    nodes=1, per_node=1, sharding="ddp", model=XL, gpu=H100, rows=4096, micro=8, speed=None, wire=4, **changes
) -> ClusterPlan:
    batch = rows * model["block_size"]
    train = {"batch_tokens": batch, "max_tokens": 1000 * batch}
    config = Config.model_validate({"model": model, "train": {**train, "micro_batch_size": micro}})
    plan = Plan(config, Machine("cuda", "bf16", int(gpu.memory), 10**15))
    cluster = replace(usual(gpu, nodes, per_node), wire=wire, **changes)
    return ClusterPlan(plan, cluster, Speed(speed, "") if speed else assumed_speed(plan, gpu), sharding)


# --- communication -------------------------------------------------------------------------------------------------


def test_alone_there_is_nothing_to_say():
    for sharding in ("ddp", "fsdp"):
        alone = cluster_plan(sharding=sharding)
        assert alone.communication == alone.exposed == 0
        assert alone.efficiency == alone.filled == 1
        assert alone.tokens_per_s == pytest.approx(alone.speed.tokens_per_s)
        assert alone.memory == alone.plan.memory


def test_a_ring_sends_from_nothing_to_twice_the_message():
    sent = [ring_bytes(1e9, n) for n in (1, 2, 3, 8, 10**6)]
    assert sent == sorted(sent)
    assert sent[:2] == [0, 1e9]
    assert sent[-1] == pytest.approx(2e9, rel=1e-5)


def test_communication_has_the_dimension_of_bytes_over_bandwidth():
    one = communication_seconds(1e9, 4, 8, 300e9, 50e9)
    assert communication_seconds(3e9, 4, 8, 300e9, 50e9) == pytest.approx(3 * one)
    assert communication_seconds(1e9, 4, 8, 3 * 300e9, 3 * 50e9) == pytest.approx(one / 3)


@pytest.mark.parametrize("n", [2, 3, 64])
def test_one_node_of_many_and_many_nodes_of_one_are_the_same_ring(n):
    ring = ring_bytes(1e9, n) / 50e9
    assert communication_seconds(1e9, 1, n, 50e9, 1.0) == communication_seconds(1e9, n, 1, 1.0, 50e9) == ring


def test_a_hierarchy_is_no_slower_than_a_flat_ring_over_its_slower_links():
    for nodes, per_node in ((2, 2), (16, 8), (128, 8)):
        flat = ring_bytes(1e9, nodes * per_node) / 50e9
        assert communication_seconds(1e9, nodes, per_node, 300e9, 50e9) < flat


class Measured(NamedTuple):
    """An all-reduce that was timed; github.com/stas00/ml-engineering at 744d01e, network/README.md."""

    what: str
    nodes: int
    message: float  # bytes
    intra_node: float  # bytes/s each way a GPU, by data sheet
    seconds: float


MEASURED = [
    Measured("8 A100, busbw 234.89 GB/s at 16 GiB", 1, 2**34, 300e9, ring_bytes(2**34, 8) / 234.89e9),
    Measured("8 H200, ring, busbw 367.61 GB/s at 16 GiB", 1, 2**34, 450e9, ring_bytes(2**34, 8) / 367.61e9),
    Measured("8 B200, 4 GiB", 1, 2**32, 900e9, 10.15e-3),
    Measured("4 nodes of 8 B200, 4 GiB", 4, 2**32, 900e9, 22.05e-3),
]


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row.what)
def test_large_messages_take_as_long_as_was_measured(row):
    """Found: -2 %, +2 %, +3 % and -9 %."""
    estimated = communication_seconds(row.message, row.nodes, 8, ATTAINED * row.intra_node, ATTAINED * 50e9)
    assert estimated == pytest.approx(row.seconds, rel=0.10)


def test_fsdp_sends_half_as_much_again_as_ddp_and_bf16_half():
    ddp, fsdp = (cluster_plan(16, 8, sharding, micro=32) for sharding in ("ddp", "fsdp"))
    assert ddp.rows == ddp.micro_rows == 32
    assert fsdp.communication == pytest.approx(1.5 * ddp.communication)  # ZeRO (arXiv:1910.02054), section 7.2
    assert cluster_plan(16, 8, micro=32, wire=2).communication == pytest.approx(ddp.communication / 2)
    twice = cluster_plan(16, 8, "fsdp", micro=16)  # weights are gathered for each micro-batch, gradients not
    assert twice.communication == pytest.approx(2.5 * ddp.communication)


def test_what_is_exposed_lies_between_the_last_message_and_all_of_them():
    assert exposed_seconds(10, 100, 1) == 1
    assert exposed_seconds(10, 4, 1) == 6
    assert exposed_seconds(10, 0, 1) == 10
    assert exposed_seconds(1, 100, 5) == 1
    assert efficiency(3, 1) == 0.75


def test_ddp_hides_behind_the_last_backward_pass_and_fsdp_behind_all():
    ddp, fsdp = (cluster_plan(128, 8, form, micro=2, inter_node=1e9) for form in ("ddp", "fsdp"))
    assert ddp.exposed == pytest.approx(ddp.communication - ddp.compute / 2 * 2 / 3)  # two micro-batches
    assert fsdp.exposed == pytest.approx(fsdp.communication - fsdp.compute)


def test_two_processes_follow_from_one():
    assert predicted_speed(100, 800, 1e9, 1, 1.0) == 100
    assert predicted_speed(100, 800, 1e9, 2, 1e30) == pytest.approx(200)
    # Each computes 400 tokens in 4 s, then sends 1e9 bytes of a ring of two at 0.5e9 bytes/s for 2 s.
    assert predicted_speed(100, 800, 1e9, 2, 0.5e9) == pytest.approx(800 / (4 + 2))
    assert predicted_speed(100, 800, 1e9, 2, 0.5e9, BACKWARD) == pytest.approx(200)
    assert predicted_speed(100, 800, 4e9, 2, 0.5e9, BACKWARD) == pytest.approx(800 / (4 + 8 - 4 * BACKWARD))


# --- the whole plan ------------------------------------------------------------------------------------------------

SIZES = [(1, 1), (1, 2), (1, 8), (2, 8), (16, 8), (512, 8)]


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_more_gpus_take_less_time_but_use_it_worse(sharding):
    plans = [cluster_plan(k, g, sharding, micro=1) for k, g in SIZES]
    for small, large in pairwise(plans):
        assert large.elapsed.mean < small.elapsed.mean
        assert large.efficiency <= small.efficiency + 1e-12
        assert large.tokens_per_s / large.cluster.gpus <= small.tokens_per_s / small.cluster.gpus * (1 + 1e-12)


def test_ddp_holds_everything_everywhere_and_fsdp_a_share():
    ddp, fsdp = ([cluster_plan(k, g, form, rows=k * g, micro=1).memory for k, g in SIZES] for form in ("ddp", "fsdp"))
    assert {m.weights for m in ddp} == {cluster_plan().plan.memory.weights}
    for (k, g), whole, part in zip(SIZES, ddp, fsdp, strict=True):
        for what in ("weights", "gradients", "optimizer"):
            assert 0 <= k * g * getattr(part, what) - getattr(whole, what) < k * g
    assert [m.total for m in fsdp[1:]] == sorted((m.total for m in fsdp[1:]), reverse=True)
    waiting = cluster_plan(16, 8, "fsdp", micro=1).memory  # 32 micro-batches
    assert waiting.gradients == waiting.accumulates * ddp[0].weights
    # However many share, the layers in use are whole.
    assert fsdp[-1].total > 4 * 2 * 12 * XL["n_embd"] ** 2
    assert fsdp[-1].total < ddp[-1].total


def test_the_batch_is_shared_out_and_no_window_is_lost():
    for nodes in (1, 3, 64, 600):
        plan = cluster_plan(nodes, 8)
        assert plan.rows * plan.cluster.gpus >= plan.plan.config.rows > (plan.rows - 1) * plan.cluster.gpus
        assert plan.filled == pytest.approx(plan.plan.config.rows / (plan.rows * plan.cluster.gpus))
    assert cluster_plan(512, 8).filled == 1


def test_recomputing_costs_a_third_more_arithmetic():
    plan = cluster_plan(2, 8)
    train = plan.plan.config.train.model_copy(update={"activation_checkpointing": "full"})
    again = replace(plan, plan=replace(plan.plan, config=plan.plan.config.model_copy(update={"train": train})))
    assert again.compute == pytest.approx(plan.compute * 4 / 3)
    assert again.memory.activations < plan.memory.activations


def test_energy_is_power_times_time():
    plan = cluster_plan(1, 8, pue=1.0)
    assert plan.energy == pytest.approx(10_200 * plan.elapsed.mean)  # a DGX H100 at its most
    assert cluster_plan(1, 8, pue=1.5).energy == pytest.approx(1.5 * plan.energy)


def test_failures_grow_with_the_cluster_and_checkpoints_take_as_long_as_ever():
    small, large = cluster_plan(2, 8), cluster_plan(128, 8)
    assert small.reliability.mtbf == pytest.approx(64 * large.reliability.mtbf)
    assert large.reliability.dump == small.reliability.dump
    assert cluster_plan(128, 8, dump=7.0).reliability.dump == 7
    assert large.interval == pytest.approx(large.checkpoint_steps * large.step_seconds)
    assert large.elapsed.mean == pytest.approx(large.expected, abs=5 * large.elapsed.error + 1e-6 * large.expected)
    assert large.elapsed.mean >= large.work


def test_ids_of_two_bytes_up_to_65536_and_of_four_beyond():
    sizes = {n: token_bytes(Config.model_validate({"model": {"vocab_size": n}}).model) for n in (256, 65_536, 65_537)}
    assert sizes == {256: 2, 65_536: 2, 65_537: 4}
    plan = cluster_plan(1, 8)
    assert plan.data_bytes == 2 * plan.run.tokens


@pytest.mark.parametrize(("nodes", "per_node"), [(128, 8), (3, 7), (1, 1024)])
def test_a_warning_of_too_many_gpus_says_what_would_do(nodes, per_node):
    def too_many(rows, k):
        forms = tuple(cluster_plan(k, per_node, form, rows=rows) for form in ("ddp", "fsdp"))
        return [line for line in cluster_warnings(forms) if line.startswith("train.batch_tokens")]

    n = nodes * per_node
    (line,) = too_many(n // 2, nodes)
    assert f"give --train.batch_tokens {n * XL['block_size']}" in line
    assert too_many(n, nodes) == []
    if nodes > 1:
        assert f"--nodes {n // 2 // per_node} at most" in line
        assert too_many(n // 2, n // 2 // per_node) == []


def test_a_cluster_that_never_gets_anywhere_is_refused():
    with pytest.raises(ConfigError, match="never end; take fewer GPUs"):
        _ = cluster_plan(512, 8, gpu_mtbf=3600.0).elapsed


def test_no_option_leaves_the_arithmetic():
    for gpu in GPUS.values():
        for nodes, per_node, bandwidth in ((10**6, 1024, 1e3), (10**6, 1024, 1e15), (1, 1, 1e3)):
            forms = tuple(
                cluster_plan(
                    nodes, per_node, form, gpu=gpu, intra_node=bandwidth, inter_node=bandwidth, gpu_mtbf=3.6e15
                )
                for form in ("ddp", "fsdp")
            )
            assert "Infinity" not in cluster_json(forms)
            assert "NaN" not in cluster_json(forms)
            assert all(math.isfinite(form.elapsed.mean) for form in forms)
            assert cluster_table(forms)


# --- published runs ------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One published run: what it was, tokens a second a GPU, and where that stands."""

    name: str
    model: dict[str, object]
    gpu: str
    nodes: int  # of eight GPUs
    rows: int  # windows a step
    micro: int
    sharding: str
    speed: float  # tokens a second a GPU
    source: str


def shape(n_layer: int, n_head: int, n_embd: int, block_size: int, vocab: int = 50_257) -> dict[str, object]:
    return {
        "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "block_size": block_size, "vocab_size": vocab,
    }  # fmt: skip


SMALL, MEDIUM, LARGE = shape(12, 12, 768, 1024), shape(24, 16, 1024, 1024), shape(36, 20, 1280, 1024)
MPT = {
    "125M": shape(12, 12, 768, 2048, 50_368), "350M": shape(24, 16, 1024, 2048, 50_368),
    "760M": shape(24, 12, 1536, 2048, 50_368), "1B": shape(24, 16, 2048, 2048, 50_368),
    "3B": shape(32, 20, 2560, 2048, 50_368), "7B": shape(32, 32, 4096, 2048, 50_368),
}  # fmt: skip
NANOCHAT_D26 = shape(26, 13, 1664, 2048, 32_768) | {"tie_embeddings": False}

LLM_C = "github.com/karpathy/llm.c, scripts/run_gpt2_{}.sh: its comment, seconds a step"
FOUNDRY = "github.com/mosaicml/llm-foundry at 8c8dd48, scripts/train/benchmarking/README.md"
MODDED = "github.com/KellerJordan/modded-nanogpt, records (research/performance.md, 1.1 and 1.3)"
STEP = 524_288  # tokens of a step of GPT-2's reproductions


def mpt(name: str, gpu: str, gpus: int, rows: int, micro: int, speed: float) -> Run:
    return Run(f"MPT {name}, {gpus} {gpu}", MPT[name], gpu, gpus // 8, rows, micro, "fsdp", speed, FOUNDRY)


PUBLISHED = [
    Run("llm.c 124M", SMALL, "a100", 1, 512, 64, "ddp", STEP / 8 / 0.300, LLM_C.format("124M")),
    Run("llm.c 350M", MEDIUM, "a100", 1, 512, 64, "ddp", STEP / 8 / 0.820, LLM_C.format("350M")),
    Run("llm.c 774M", LARGE, "a100", 1, 512, 32, "ddp", STEP / 8 / 1.7, LLM_C.format("774M")),
    Run("llm.c 1558M", XL, "h100", 1, 1024, 16, "ddp", 2 * STEP / 8 / 2.80, LLM_C.format("1558M")),
    Run("llm.c 124M", SMALL, "h100", 1, 512, 64, "ddp", STEP / 8 / 0.140, f"{MODDED}: record 1, 140 ms"),
    Run("modded-nanogpt 7", SMALL, "h100", 1, 512, 64, "ddp", STEP / 8 / 0.1418, f"{MODDED}: record 7, 141.8 ms"),
    # Its windows slide, so it does less than is counted here.
    Run("nanochat d26", NANOCHAT_D26, "h100", 1, 512, 32, "ddp", 630e3 / 8, "karpathy/nanochat, dev/LOG.md: bf16"),
    mpt("350M", "a100", 8, 512, 32, 58_782), mpt("760M", "a100", 8, 384, 24, 32_434),
    mpt("3B", "a100", 8, 160, 10, 10_811), mpt("7B", "a100", 8, 96, 6, 4_641),
    mpt("760M", "h100", 8, 384, 24, 63_147), mpt("7B", "h100", 8, 48, 6, 10_643),
    mpt("1B", "h100", 16, 320, 20, 46_037), mpt("1B", "h100", 64, 1280, 20, 44_402),
    mpt("1B", "h100", 128, 1536, 12, 44_123), mpt("1B", "h100", 512, 6144, 12, 39_837),
    mpt("3B", "h100", 128, 1024, 8, 23_422), mpt("3B", "h100", 512, 4096, 8, 21_664),
    mpt("7B", "h100", 128, 768, 6, 10_475), mpt("7B", "h100", 512, 3072, 6, 9_670),
]  # fmt: skip
# Stacks that reach less of a GPU with so small a model: the plan is what could be had, not what they had.
SLOWER = [
    (Run("J. Schwartz, 124M", SMALL, "h100", 1, 512, 64, "ddp", 375e3, "blog: 3 million tokens/s on 8 H100"), 1.30),
    (mpt("125M", "a100", 8, 640, 40, 142_830), 1.45),
    (Run("nanoGPT 124M", SMALL, "a100", 1, 480, 12, "ddp", 108e3, "README: about 4 days; issue 110: 562 ms"), 2.05),
]
ASSUMED = {"a100": mpt("1B", "a100", 8, 448, 14, 20_513), "h100": mpt("1B", "h100", 8, 112, 14, 45_455)}
WITHIN = 0.22


def ratio(run: Run) -> float:
    """Planned speed over published."""
    plan = cluster_plan(run.nodes, 8, run.sharding, run.model, GPUS[run.gpu], run.rows, run.micro, wire=2)
    return plan.tokens_per_s / plan.cluster.gpus / run.speed


@pytest.mark.parametrize("name", ASSUMED)
def test_the_assumed_mfu_is_that_of_its_one_source(name):
    run, gpu = ASSUMED[name], GPUS[name]
    model = Config.model_validate({"model": run.model}).model
    assert gpu.mfu == pytest.approx(run.speed * flops_per_token(model) / gpu.peak, abs=0.001)
    assert parameters(model) == pytest.approx(1_315_950_592, rel=0.001)  # as the table counts it
    assert GPUS["h200"].mfu == GPUS["h100"].mfu


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: f"{run.name} {run.gpu}")
def test_published_speeds_are_met(run):
    """Found: from -19 % (nanochat) to +22 % (MPT 760M on H100, MPT 350M on A100)."""
    assert abs(ratio(run) - 1) < WITHIN


def test_half_of_the_published_speeds_are_met_within_five_percent_as_the_help_says():
    assert median(abs(ratio(run) - 1) for run in PUBLISHED) < 0.05
    assert f"Of {len(PUBLISHED) + len(SLOWER)} published runs" in EPILOG
    assert f"{len(PUBLISHED)} were within {WITHIN:.0%}".replace("%", " %") in EPILOG
    assert "by 22 %, 30 % and 50 %" in EPILOG
    assert [round(100 * (1 - 1 / ratio(run))) for run, _ in SLOWER] == [22, 30, 50]


@pytest.mark.parametrize(("run", "factor"), SLOWER, ids=lambda x: getattr(x, "name", str(x)))
def test_stacks_known_to_be_slower_are_planned_too_fast_by_no_more_than_so_much(run, factor):
    assert 1 + WITHIN < ratio(run) < factor


def test_gpt2_xl_takes_the_day_that_it_took():
    """llm.c: 32,000 steps of 1,048,576 tokens "in 24 hours" on 8 H100 (discussion 677); found: 30 h, 24 % more."""
    plan = cluster_plan(1, 8, rows=1024, micro=16, wire=2)
    assert 32_000 * plan.step_seconds / 3600 == pytest.approx(24, rel=0.25)


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def plan(capsys):
    def call(*argv: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["plan", *map(str, argv)])
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return call


EXAMPLE = ("--nodes", 128, "--gpus-per-node", 8, "--model", "gpt2-xl", "--tokens", "1T")


def test_the_example_is_planned_without_torch(tmp_path):
    code = (
        f"import sys\nfrom groundup.cli import main\ntry: main(['plan', *{[str(word) for word in EXAMPLE]}])\n"
        "except SystemExit as e: print(e.code)\nprint('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"
    for part in ("1,557,611,200", "1,024 GPUs", "1T tokens", "DDP", "FSDP2", "Daly", "kWh", "--nodes 64 at most"):
        assert part in done.stdout


def test_json_holds_the_same_numbers(plan):
    status, out, _ = plan(*EXAMPLE, "--json", "--train.batch_tokens", 2**21)
    values = json.loads(out)
    assert status == 0
    assert values["cluster"]["gpus"] == 1024
    assert values["tokens"] >= 10**12
    for form in (values["ddp"], values["fsdp"]):
        assert form["step_seconds"] == pytest.approx(form["compute_seconds"] + form["exposed_seconds"])
        assert form["efficiency"] == pytest.approx(form["compute_seconds"] / form["step_seconds"])
        assert form["seconds"] == pytest.approx(form["seconds_expected"], rel=0.02)
    assert not any(line.startswith("train.batch_tokens") for line in values["warnings"])


def test_options_reach_the_plan(plan):
    def of(*extra):
        return json.loads(plan("gpt2", "--nodes", 2, "--json", *extra)[1])

    usual = of()
    assert usual["cluster"]["per_node"] == 8
    assert of("--mfu", 0.1)["gpu_tokens_per_s"] == pytest.approx(usual["gpu_tokens_per_s"] * 0.1 / H100.mfu)
    assert of("--tokens-per-second", 1000)["gpu_tokens_per_s"] == 1000
    assert of("--gpu", "A100")["cluster"]["gpu"] == "a100"
    assert of("--inter-node-bandwidth", 7)["cluster"]["inter_node"] == 7e9
    assert of("--intra-node-bandwidth", 7)["cluster"]["intra_node"] == 7e9
    assert of("--gpu-mtbf-hours", 10_000)["cluster"]["mtbf"] == pytest.approx(10_000 * 3600 / 16)
    assert of("--checkpoint-seconds", 3)["ddp"]["checkpoint_seconds"] == 3
    assert of("--wire", "bf16")["ddp"]["communication_seconds"] == pytest.approx(
        usual["ddp"]["communication_seconds"] / 2
    )


def test_tokens_are_a_horizon_of_plans_without_a_cluster_too(plan):
    assert json.loads(plan("--model", "gpt2", "--tokens", "1B", "--json")[1])["tokens"] >= 10**9


@pytest.mark.parametrize(
    ("text", "tokens"), [("300M", 3e8), ("10B", 1e10), ("1T", 1e12), ("2.5k", 2500), ("7", 7), ("1t", 1e12)]
)
def test_counts_with_suffixes(text, tokens):
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "T", "1X", "-1B", "0", "0.5", "1e12", "1 000", "1.0001k", "nan", "١"])
def test_other_counts_are_refused(text):
    with pytest.raises(UsageError, match="give it as 300M, 10B or 1T"):
        parse_tokens(text)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--nodes", 0], "--nodes 0: must be between 1 and"),
        (["--nodes", "many"], "invalid int value"),
        (["--nodes", 2, "--gpus-per-node", -1], "--gpus-per-node -1: must be between"),
        (["--nodes", 2, "--mfu", 1.5], "--mfu 1.5: must be between"),
        (["--nodes", 2, "--mfu", "nan"], "--mfu nan: must be between"),
        (["--nodes", 2, "--pue", 0.5], "--pue 0.5: must be between"),
        (["--nodes", 2, "--gpu-mtbf-hours", "inf"], "--gpu-mtbf-hours inf: must be between"),
        (["--nodes", 2, "--inter-node-bandwidth", 0], "--inter-node-bandwidth 0.0: must be between"),
        (["--nodes", 2, "--gpu", "h10"], "did you mean h100?; known are a100, h100, h200"),
        (["--nodes", 2, "--wire", "fp8"], "invalid choice"),
        (["--mfu", 0.4], "give --nodes as well"),
        (["--nodes", 2, "--measure"], "--measure: times this machine"),
        (["--nodes", 2, "--mfu", 0.4, "--tokens-per-second", 1e5], "leave one of them out"),
        (["--nodes", 2, "--tokens", "1Q"], "--tokens 1Q: not a whole number"),
        (["--nodes", 2, "--tokens", "1B", "--train.max_tokens", 5], "says the same"),
        (["--nodes", 2, "--tokens", "1B", "--train.max_steps", 5], "one horizon"),
        (["--nodes", 2, "--tokens", "10000T"], "train.max_tokens"),
        (["--nodes", 2, "--train.device", "cpu"], "train.device: cpu, but --nodes plans GPUs"),
        (["--nodes", 2, "--train.precision", "fp32"], "train.precision: fp32"),
        (["gpt2", "--model", "gpt2-xl", "--nodes", 2], "the preset is gpt2 already"),
        (["--model", "gpt9", "--nodes", 2], "preset 'gpt9'"),
        (["gpt1", "--nodes", 2], "give --tokens 10B"),
        (["gpt2", "--nodes", 1000, "--gpu-mtbf-hours", 0.1], "would never end; take fewer GPUs"),
    ],
)
def test_mistakes_get_a_sentence(plan, argv, sentence):
    status, out, err = plan(*argv)
    assert (status, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_help_names_the_sources(plan):
    _, out, _ = plan("--help")
    for part in ("arXiv:1910.02054", "arXiv:2407.21783", "Daly", "Young", "--gpus_per_node", "--tokens"):
        assert part in out
