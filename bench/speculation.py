"""Tokens per second of a run with and without drafts: `python -m bench.speculation RUN…`.

Contenders take turns, each round with another seed; times are of the CPU, so that other processes count less.
"""

import argparse
import statistics
import time

import torch

from groundup.checkpoint.state import LoadedModel, load
from groundup.generation.completion import run_requests
from groundup.generation.drafts import NewDrafter, NGramDrafter, NoDrafts
from groundup.generation.engine import Engine, Request
from groundup.generation.sampling import Sampling
from groundup.run.drafts import drafter_of

TEMPERATURES = (0.0, 0.8, 1.0)


def main() -> int:
    """Print a table for each run. Exit status 1 where a text differs."""
    parser = argparse.ArgumentParser(prog="python -m bench.speculation", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs whose training text is there")
    parser.add_argument("--prompt", default="The king and the people\n", help="text to continue")
    parser.add_argument("--tokens", type=int, default=100, help="tokens per sample (default 100)")
    parser.add_argument("--rows", type=int, default=1, help="samples at a time (default 1)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default 15)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    different = 0
    for run in args.runs:
        loaded = load(run, device="cpu")
        loaded.model.eval()
        drafters = {"off": NoDrafts, "text so far": NGramDrafter, "and training text": drafter_of(loaded)}
        drafters["and training text"](())  # reads the training text, which is not timed
        for temperature in TEMPERATURES:
            seconds: dict[str, list[float]] = {name: [] for name in drafters}
            for seed in range(args.rounds):
                sampling = Sampling(temperature, seed=seed)
                request = Request(
                    tuple(loaded.tokenizer.encode(args.prompt).tolist()), args.tokens, sampling, args.rows
                )
                texts = []
                for name, drafter in drafters.items():
                    per_token, tokens = measure(loaded, request, drafter)
                    seconds[name].append(per_token)
                    texts.append(tokens)
                different += texts.count(texts[0]) < len(texts)
            for name, values in seconds.items():
                ratio = statistics.median(off / own for off, own in zip(seconds["off"], values, strict=True))
                speed = 1 / statistics.median(values)
                print(f"{run}  temperature {temperature}  {name:18}{speed:8,.0f} tokens/s  {ratio:.2f}x", flush=True)
    print(f"{different} texts differ")
    return int(different > 0)


def measure(loaded: LoadedModel, request: Request, drafter: NewDrafter) -> tuple[float, list[list[int]]]:
    """CPU seconds per token of all samples, and their tokens."""
    engine = Engine(loaded.model, loaded.tokenizer, loaded.device, slots=request.samples, new_drafter=drafter)
    began = time.process_time()
    (samples,) = run_requests(engine, [request])
    taken = time.process_time() - began
    tokens = [[token for piece in pieces for token in piece.tokens] for pieces in samples]
    return taken / sum(map(len, tokens)), tokens


if __name__ == "__main__":
    raise SystemExit(main())
