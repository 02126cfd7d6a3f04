"""What lm-evaluation-harness asks of a model, answered by ours.

The harness hands over all requests at once. Endings of one question come one after the other, so their context is
computed once (`evaluation.likelihood`), where the harness's own models compute it for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from groundup.checkpoint.load import load
from groundup.errors import UsageError
from groundup.evaluation.likelihood import log_likelihoods
from groundup.generation.engine import TextStream, stream
from groundup.generation.sampling import Sampler
from groundup.utils.device import autocast, choose_precision

MAX_TOKENS = 256  # of an answer, where a task does not say; as the harness's own models have it


@register_model("groundup")
class Groundup(TemplateLM):  # type: ignore[misc]  # which has no types
    """A run or checkpoint of ours."""

    def __init__(
        self,
        path: str = "",
        checkpoint: str = "latest",
        precision: str = "fp32",
        device: str | None = None,
        tokens: int | None = None,
        **others: Any,
    ) -> None:
        """`others` is what the harness tells every model, such as `batch_size`: batches are counted in tokens here."""
        super().__init__()
        if not path:
            raise UsageError("harness: which model? --model_args path=RUN_OR_CHECKPOINT")
        if unknown := others.keys() - {"batch_size", "max_batch_size"}:
            known = "path, checkpoint, precision, device, tokens"
            raise UsageError(
                f"harness: --model_args {sorted(unknown)[0]}: there is no such argument; there are {known}"
            )
        # Unless told otherwise, the harness asks every model for its first GPU, whether there is one or not.
        usual = device in (None, "", "cuda", "cuda:0")
        self._loaded = load(path, checkpoint=checkpoint, device="auto" if usual else str(device))
        self._device = self._loaded.device
        self._autocast = autocast(choose_precision(precision, self._device).name, self._device)
        self._tokens = tokens
        self._encode = self._loaded.tokenizer.encode

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text, and that stands before a request without context."""
        return self._loaded.tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        """Of context and answer together, in tokens."""
        return self._loaded.config.model.block_size

    @property
    def tokenizer_name(self) -> str:
        """By which the harness tells cached requests apart."""
        return self._loaded.tokenizer.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
        """Ids of a text; our tokenizers add none."""
        return self._encode(string).tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **others: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would write it."""
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
        """Log-likelihood of whole texts, in windows of the model's context that do not overlap."""
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
        """Continuations up to, and without, the first of the texts that end them."""
        return [self._continued(*request.args) for request in requests]

    def _continued(self, context: str, wishes: dict[str, Any]) -> str:
        until = wishes.get("until") or []
        ends = [until] if isinstance(until, str) else list(until)
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        # Where both do not fit the context, the prompt keeps half of it at least.
        most = max(self.max_length - len(prompt), self.max_length // 2)
        room = min(int(wishes.get("max_gen_toks", MAX_TOKENS)), most)
        temperature = float(wishes.get("temperature", 0.0)) if wishes.get("do_sample") else 0.0
        ids = prompt[-(self.max_length - room) :]
        text, written = TextStream(self._loaded.tokenizer.decode_bytes), ""
        for row in stream(
            self._loaded.model,
            ids,
            Sampler(temperature, p=wishes.get("top_p")),
            device=self._device,
            max_tokens=room,
            end_of_text=self.eot_token_id,
        ):
            written += "" if row[0] is None else text.feed(row[0])
            cuts = [written.find(end) for end in ends if end and end in written]
            if cuts:
                return written[: min(cuts)]
        return written
