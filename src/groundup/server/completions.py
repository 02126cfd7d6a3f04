"""A completion request as requests of the engine, and the engine's pieces as an answer."""

import codecs
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from groundup.checkpoint.state import LoadedModel
from groundup.errors import GroundupError
from groundup.generation.completion import prompt_ids
from groundup.generation.engine import Piece, Request
from groundup.generation.sampling import Sampling
from groundup.server.limits import Limits
from groundup.server.schemas import MAX_CHOICES, ApiError, Choice, Completion, CompletionRequest, Logprobs, Usage
from groundup.tokenizers.base import Tokenizer

DEFAULT_MAX_TOKENS = 16  # as in OpenAI's API
LOWEST_TOP_P = 1e-30  # lower ones, 0 among them, mean the same: the most likely token
LOWEST_LOGPROB = -9999.0  # for minus infinity, which JSON cannot express


@dataclass(frozen=True)
class Job:
    """A validated request: what the engine is to do, one entry for each prompt, and how many choices each has."""

    requests: list[Request]
    samples: int
    empty: list[bool]
    """which prompts are an empty text, and have no text to echo"""


class Planner:
    """Validates requests to one model."""

    def __init__(self, loaded: LoadedModel, limits: Limits) -> None:
        self._loaded, self._max_tokens = loaded, limits.tokens
        self._context, self._largest_id = loaded.config.model.block_size, loaded.tokenizer.n_vocab - 1
        tokenizer = loaded.tokenizer
        # Characters that a token stands for at most; where a text may lose some, there is no such number.
        shortens = tokenizer.lossy is not None or tokenizer.unknown is not None
        self._longest = None if shortens else max(map(len, tokenizer.pieces))

    def plan(self, body: CompletionRequest) -> Job:
        """The engine's requests for `body`. ApiError with status 400 where a value is impossible for this model."""
        _refuse_unsupported(body)
        prompts, samples = body.prompt or [""], body.n or 1
        if (choices := len(prompts) * samples) > MAX_CHOICES:
            raise ApiError(
                400,
                f"prompt: {len(prompts):,} prompts x n {samples} are {choices:,} choices; at most {MAX_CHOICES} are "
                "possible in one request",
                param="prompt" if len(prompts) > 1 else "n",
            )
        max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        if max_tokens > self._max_tokens:
            message = f"max_tokens {max_tokens}: at most {self._max_tokens:,} are possible here"
            raise ApiError(400, message, param="max_tokens")
        for token in body.logit_bias or ():
            self._check_id(token, "logit_bias")
        requests = [
            Request(
                prompt=self._ids(prompt),
                max_tokens=max_tokens,
                sampling=_sampling(body),
                samples=samples,
                logprobs=body.logprobs,
                echo=bool(body.echo),
                stop=body.stop or (),
            )
            for prompt in prompts
        ]
        return Job(requests, samples, [prompt == "" for prompt in prompts])

    def _ids(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """Token ids of a prompt, as many as the model can read at once; ApiError otherwise."""
        if isinstance(prompt, str):
            if self._longest and (least := -(-len(prompt) // self._longest)) > self._context:
                raise self._too_long(f"at least {least:,}")  # known before a long text is encoded
            try:
                ids = prompt_ids(self._loaded.tokenizer, prompt, begins_documents=self._loaded.begins_documents)
            except GroundupError as error:
                raise ApiError(400, f"prompt: {error}", param="prompt") from None
        else:
            ids = list(prompt)
            for token in ids:
                self._check_id(token, "prompt")
        if len(ids) > self._context:
            raise self._too_long(f"{len(ids):,}")
        return tuple(ids)

    def _too_long(self, tokens: str) -> ApiError:
        return ApiError(
            400,
            f"the prompt has {tokens} tokens, and the model reads at most {self._context:,} (its context); send the "
            "end of the text",
            param="prompt",
            code="context_length_exceeded",
        )

    def _check_id(self, token: int, field: str) -> None:
        if not 0 <= token <= self._largest_id:
            message = f"{field}: {token} is not a token id of this model; ids are from 0 to {self._largest_id}"
            raise ApiError(400, message, param=field)


def _refuse_unsupported(body: CompletionRequest) -> None:
    if body.suffix:
        raise ApiError(
            400,
            "suffix: models trained here only continue a text and cannot fill a gap in one; leave it out, and give the "
            "text before the gap as the prompt",
            param="suffix",
        )
    if body.best_of not in (None, body.n or 1):
        raise ApiError(
            400,
            f"best_of {body.best_of}: answers are not ranked here; ask for n answers with logprobs, and choose by them",
            param="best_of",
        )
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options: only possible with stream: true", param="stream_options")


def _sampling(body: CompletionRequest) -> Sampling:
    """How tokens are chosen; without a seed, by a new one."""
    defaults = Sampling()
    given = {name: getattr(body, name) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    given |= {name: getattr(body, name) for name in ("presence_penalty", "frequency_penalty", "logit_bias")}
    given = {name: getattr(defaults, name) if value is None else value for name, value in given.items()}
    if given["top_p"] is not None:
        given["top_p"] = max(given["top_p"], LOWEST_TOP_P)
    return Sampling(**given, seed=secrets.randbits(63) if body.seed is None else body.seed)


class Answer:
    """Assembles pieces into chunks and into the whole answer, with counts of tokens."""

    def __init__(self, model: str, job: Job, tokenizer: Tokenizer) -> None:
        self._model, self._job, self._tokenizer = model, job, tokenizer
        self._id, self._created = f"cmpl-{secrets.token_hex(16)}", int(time.time())
        choices = len(job.requests) * job.samples
        self._choices = [Choice(text="", index=index) for index in range(choices)]
        self._echoes = [job.requests[0].echo] * choices  # of a choice: whether its next piece is the prompt
        self._offsets = [_Offsets(tokenizer) for _ in range(choices)]
        self._completion_tokens = 0
        self.unfinished = choices

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        prompt = sum(len(request.prompt) for request in self._job.requests)
        made = self._completion_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made)

    def add(self, prompt: int, piece: Piece) -> Choice:
        """The part of a choice that a piece is, with its index."""
        index = prompt * self._job.samples + piece.sample
        echoes, self._echoes[index] = self._echoes[index], False
        text = "" if echoes and self._job.empty[prompt] else piece.text
        self._completion_tokens += 0 if echoes else len(piece.tokens)
        logprobs = self._logprobs(piece, self._offsets[index]) if piece.logprobs is not None else None
        if echoes:
            self._offsets[index] = _Offsets(self._tokenizer, len(text))
        self.unfinished -= piece.finish is not None
        return Choice(text=text, index=index, logprobs=logprobs, finish_reason=piece.finish)

    def collect(self, part: Choice) -> None:
        """Append a part to its choice in the complete answer."""
        self._choices[part.index].append(part)

    def complete(self) -> Completion:
        """The complete answer."""
        return self._completion(self._choices, self.usage)

    def chunk(self, part: Choice) -> Completion:
        """A chunk of a stream."""
        return self._completion([part], None)

    def last_chunk(self) -> Completion:
        """The chunk with the token counts."""
        return self._completion([], self.usage)

    def _completion(self, choices: list[Choice], usage: Usage | None) -> Completion:
        return Completion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)

    def _logprobs(self, piece: Piece, offsets: "_Offsets") -> Logprobs:
        assert piece.logprobs is not None
        chosen, top = piece.logprobs
        return Logprobs(
            tokens=[self._name(token) for token in piece.tokens],
            token_logprobs=[None if value is None else _finite(value) for value in chosen],
            top_logprobs=[
                None if value is None else self._alternatives([*pairs, (token, value)])
                for token, value, pairs in zip(piece.tokens, chosen, top, strict=True)
            ],
            text_offset=[offsets.next(token) for token in piece.tokens],
        )

    def _alternatives(self, pairs: Sequence[tuple[int, float]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for token, value in pairs:
            found.setdefault(self._name(token), _finite(value))
        return found

    def _name(self, token: int) -> str:
        data = self._tokenizer.decode_bytes([token])
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)


class _Offsets:
    """Where tokens begin in a text: the number of complete characters before them."""

    def __init__(self, tokenizer: Tokenizer, begin: int = 0) -> None:
        self._tokenizer, self._characters = tokenizer, begin
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def next(self, token: int) -> int:
        """Where `token` begins, which comes next."""
        begin = self._characters
        self._characters += len(self._decoder.decode(self._tokenizer.decode_bytes([token])))
        return begin
