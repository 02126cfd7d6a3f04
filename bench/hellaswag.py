"""HellaSwag questions per second with a model of GPT-2's smallest size: ours, a plain loop, lm-evaluation-harness.

python -m bench.hellaswag --questions val.jsonl [--precision bf16] [--count 32] [--rounds 5] [--json FILE]

The plain loop is build-nanogpt's procedure: one question at a time, its four choices padded to one length, the logits
of all positions. It runs over transformers' GPT-2, as there, and over our model. lm-evaluation-harness, where it is
installed, runs its own `hf` model over transformers' GPT-2, on the same ids. Weights are random and the same for all:
`--weights CHECKPOINT` takes those of a trained GPT-2 of ours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.measure import Result, gemm_gflops, interleaved, machine, seconds
from groundup.checkpoint.state import load
from groundup.config.model import ModelConfig
from groundup.evaluation.likelihood import log_likelihoods, pack_rows
from groundup.evaluation.tasks import EvalTask, open_task
from groundup.interop.hf_mapping import config_json, to_hf
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT
from groundup.tokenizers.registry import choose_tokenizer
from groundup.utils.device import autocast

SHAPE = ModelConfig(n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50_257)
CPU = torch.device("cpu")
HARNESS_BATCHES = (8, 32)  # rows; the harness needs a batch size
SEED = 1337

Predictions = list[tuple[int, int]]  # per question the choice by sum and by mean
Context = Callable[[], AbstractContextManager[object]]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.hellaswag", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE", help="HellaSwag's validation part")
    parser.add_argument("--count", type=int, default=32, help="questions per round (default 32)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--weights", metavar="CHECKPOINT", help="a trained GPT-2 of ours (default: random weights)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = load(args.weights, device="cpu") if args.weights else None
    gpt = (
        loaded.model
        if loaded
        else use_fused_cpu_kernels(GPT(SHAPE).init_weights(torch.Generator().manual_seed(SEED))).eval()
    )
    tokenizer = loaded.tokenizer if loaded else choose_tokenizer("gpt2")
    task = open_task(f"{args.questions}:{args.count}", tokenizer, all_formats=False)  # type: ignore[arg-type]
    result = measure(gpt, task, args.precision, args.rounds)
    print(result.title)
    for row in result.rows:
        print(f"{row.name:<44}{row.median:>8.2f} {result.unit}{result.ratio(row) or 0:>8.2f} x plain loop")
    print("\n".join([*result.notes, *(f"FAILED: {failure}" for failure in result.failures)]))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "result": result.as_dict()}, indent=2) + "\n")


def measure(gpt: GPT, task: EvalTask, precision: str, rounds: int) -> Result:
    """Questions per second of all contenders, which must agree."""
    context = autocast(precision, CPU)
    twin = transformers_twin(gpt)
    contenders: dict[str, Callable[[], Predictions]] = {
        "groundup": partial(ours, gpt, task, context),
        "plain loop, transformers' GPT-2": partial(plain, lambda ids: twin(ids).logits, task, context),
        "plain loop, our GPT-2": partial(plain, gpt, task, context),
    }
    notes = []
    try:
        for rows in HARNESS_BATCHES:
            name = f"lm-evaluation-harness, batches of {rows}"
            contenders[name] = partial(harness(twin, rows), task, context)
    except ImportError:
        notes.append("without lm-evaluation-harness's rows: pip install 'lm-eval[hf]'")
    outputs = {name: contender() for name, contender in contenders.items()}  # warms up, too
    n, before = task.size, gemm_gflops()
    speeds = {name: partial(lambda run: n / seconds(run), run) for name, run in contenders.items()}
    rows_ = interleaved(speeds, rounds)
    title = f"hellaswag: {n} questions, {sum(p.numel() for p in gpt.parameters()) / 1e6:.0f}M parameters, {precision}"
    result = Result(title, "questions/s", rows_, "plain loop, transformers' GPT-2", notes, [], [before, gemm_gflops()])
    check_agreement(result, outputs, exact=precision == "fp32")
    result.notes.append(arithmetic(task, gpt))
    result.notes.append(f"fp32 matrix product: {result.ceiling[0]:.0f} GFLOP/s before, {result.ceiling[1]:.0f} after")
    return result


def check_agreement(result: Result, outputs: dict[str, Predictions], *, exact: bool) -> None:
    """Fail if choices by sum or by mean differ; in bf16 up to 0.2 % may."""
    mine = np.array(outputs["groundup"])
    for name, others in outputs.items():
        share = float((mine == np.array(others)).mean())
        result.notes.append(f"{name}: {share:.2%} of the choices equal ours")
        if share < (1.0 if exact else 0.998):
            result.failures.append(f"{name} makes other choices")


def arithmetic(task: EvalTask, gpt: GPT) -> str:
    """Positions per question that go through the blocks and the head, as a sentence."""
    pairs, n = task.pairs, task.size
    rows, _ = pack_rows(pairs, gpt.config.block_size)
    heads = sum(1 + sum(len(ending) - 1 for _, ending in row.endings) for row in rows) / n
    padded = sum(4 * max(len(c) + len(e) for c, e in one.pairs) for one in task.parts[0].questions) / n
    return (
        f"positions per question: {sum(row.length for row in rows) / n:.0f} through the blocks and {heads:.0f} through "
        f"the head; in the plain loop {padded:.0f} through both"
    )


def ours(gpt: GPT, task: EvalTask, context: Context) -> Predictions:
    """Choices of `groundup evaluate`."""
    found = log_likelihoods(gpt, task.pairs, device=CPU, autocast=context)
    return chosen(task, found.nats)


def chosen(task: EvalTask, nats: np.ndarray[Any, Any]) -> Predictions:
    """The likeliest choice of each question, by sum and by mean."""
    found, at = [], 0
    for one in task.parts[0].questions:
        here = nats[at : at + len(one.pairs)]
        at += len(one.pairs)
        lengths = np.array([len(ending) for _, ending in one.pairs])
        found.append((int(here.argmax()), int((here / lengths).argmax())))
    return found


@torch.no_grad()
def plain(model: Callable[[torch.Tensor], torch.Tensor], task: EvalTask, context: Context) -> Predictions:
    """Choices of the plain loop: one question at a time."""
    found = []
    for one in task.parts[0].questions:
        T = max(len(c) + len(e) for c, e in one.pairs)
        ids, mask = torch.zeros(len(one.pairs), T, dtype=torch.long), torch.zeros(len(one.pairs), T)
        for i, (before, ending) in enumerate(one.pairs):
            n = len(before) + len(ending)
            ids[i, :n] = torch.from_numpy(np.concatenate([before, ending]).astype(np.int64))
            mask[i, len(before) : n] = 1
        with context():
            logits = model(ids)[:, :-1].contiguous()  # (choices, T - 1, V)
            losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        sums = (losses.view(len(ids), -1) * mask[:, 1:]).sum(1)
        found.append((int(sums.argmin()), int((sums / mask[:, 1:].sum(1)).argmin())))
    return found


def harness(model: Any, rows: int) -> Callable[[EvalTask, Context], Predictions]:
    """Choices of the harness's own model for transformers, given the same ids."""
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    from tokenizers import Tokenizer, models

    nothing = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, "x")), eos_token="x")
    nothing.pad_token = "x"
    lm = HFLM(pretrained=model, tokenizer=nothing, batch_size=rows, max_length=1024, device="cpu")

    def answers(task: EvalTask, context: Context) -> Predictions:
        requests = [((str(i), ""), c.tolist(), e.tolist()) for i, (c, e) in enumerate(task.pairs)]
        with context():
            found = lm._loglikelihood_tokens(requests, disable_tqdm=True)
        return chosen(task, np.array([nats for nats, _ in found]))

    return answers


def transformers_twin(gpt: GPT) -> Any:
    """transformers' GPT-2 with our weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = config_json(gpt.config, end_of_text=0)
    model = GPT2LMHeadModel(
        GPT2Config(**{k: v for k, v in settings.items() if k not in ("model_type", "architectures")})
    )
    missing = model.load_state_dict(to_hf(gpt.config, dict(gpt.named_parameters())), strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"}, missing
    return model.eval()


if __name__ == "__main__":
    main()
