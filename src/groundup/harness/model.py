"""Adapter of groundup's models to the model interface of lm-evaluation-harness.

The harness passes all requests at once. The endings of one question follow each other, so their context is computed
once (`evaluation.likelihood`), while the harness's own models compute it for each ending.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from groundup.checkpoint.state import load
from groundup.errors import UsageError
from groundup.evaluation.likelihood import log_likelihoods
from groundup.generation.completion import run_requests
from groundup.generation.engine import Engine, Request
from groundup.generation.sampling import Sampling
from groundup.utils.device import autocast, choose_precision

DEFAULT_ANSWER_TOKENS = 256  # of tasks that give no number; as in the harness's own models


@register_model("groundup")
class Groundup(TemplateLM):  # type: ignore[misc]  # the library is untyped
    """A run or checkpoint of groundup."""

    def __init__(
        self,
        path: str = "",
        checkpoint: str = "latest",
        precision: str = "fp32",
        device: str | None = None,
        tokens: int | None = None,
        **others: Any,
    ) -> None:
        """`others`: what the harness passes to every model, such as `batch_size`, which `tokens` replaces here."""
        super().__init__()
        if not path:
            raise UsageError("harness: no model given; give one with --model_args path=RUN_OR_CHECKPOINT")
        if unknown := others.keys() - {"batch_size", "max_batch_size"}:
            known = "path, checkpoint, precision, device, tokens"
            raise UsageError(f"harness: --model_args {sorted(unknown)[0]}: no such argument; give one of {known}")
        # By default the harness passes the first GPU, even on machines without one.
        default = device in (None, "", "cuda", "cuda:0")
        self._loaded = load(path, checkpoint=checkpoint, device="auto" if default else str(device))
        self._device = self._loaded.device
        self._autocast = autocast(choose_precision(precision, self._device).name, self._device)
        self._tokens = tokens

    @property
    def eot_token_id(self) -> int:
        """The end-of-text id, also the context of a request that has none."""
        return self._loaded.tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        """Maximum length of context and answer together, in tokens."""
        return self._loaded.config.model.block_size

    @property
    def tokenizer_name(self) -> str:
        """Fingerprint of the tokenizer, part of the harness's key of cached requests."""
        return self._loaded.tokenizer.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
        """Ids of a text, without added special tokens."""
        return self._loaded.tokenizer.encode(string).tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **others: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood (nats) of each continuation, and whether greedy decoding would produce it."""
        pairs = [(np.array(context), np.array(ending)) for _, context, ending in requests]
        found = log_likelihoods(
            self._loaded.model, pairs, device=self._device, autocast=self._autocast, tokens=self._tokens
        )
        answers = [(float(nats), bool(greedy)) for nats, greedy in zip(found.nats, found.greedy, strict=True)]
        for (request, _, _), answer in zip(requests, answers, strict=True):
            if request is not None:
                self.cache_hook.add_partial("loglikelihood", request, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood (nats) of full texts, in windows of the model's context that do not overlap."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(number)
        sums = np.zeros(len(requests))
        np.add.at(sums, owners, [nats for nats, _ in self._loglikelihood_tokens(windows)])
        return [float(nats) for nats in sums]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to the first of the texts that end them, without it."""
        engine = Engine(self._loaded.model, self._loaded.tokenizer, self._device)
        found = run_requests(engine, [self._request(*request.args) for request in requests])
        return ["".join(piece.text for piece in pieces) for (pieces,) in found]

    def _request(self, context: str, options: dict[str, Any]) -> Request:
        until = options.get("until") or []
        ends = [until] if isinstance(until, str) else list(until)
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        # If both do not fit the context, the prompt keeps at least half of it.
        limit = max(self.max_length - len(prompt), self.max_length // 2)
        max_tokens = min(int(options.get("max_gen_toks", DEFAULT_ANSWER_TOKENS)), limit)
        temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
        ids = prompt[-(self.max_length - max_tokens) :]
        sampling = Sampling(temperature, top_p=options.get("top_p"))
        return Request(tuple(ids), max_tokens, sampling, stop=tuple(end for end in ends if end))
