"""Requests and responses of the API, as OpenAI's clients know them, and errors in OpenAI's form."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from groundup.config.merge import did_you_mean
from groundup.ui.format import single_line

MAX_CHOICES = 128  # of one request: prompts x n
MAX_LOGPROBS = 5
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 1000
MAX_BIASES = 1024
MAX_MESSAGE_CHARACTERS = 1000

# Values of several types are checked by hand: pydantic would report each of a million wrong ones, for each type.


def _prompts(value: Any) -> list[str | list[int]]:
    """One or several prompts, as a list; ValueError where it is neither."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _all(value, int):
            return [value]
        if _all(value, str) or all(isinstance(prompt, list) and prompt and _all(prompt, int) for prompt in value):
            return value
    raise ValueError(
        "must be a text, a list of texts, a list of token ids, or a list of lists of token ids; no list may be empty"
    )


def _all(values: list[Any], kind: type) -> bool:
    return all(type(value) is kind for value in values)  # a bool is an int to isinstance


def _bias(values: Any) -> dict[int, float]:
    """Token ids as numbers -> bias; ValueError for the first entry that is none."""
    if not isinstance(values, dict):
        raise ValueError("must be an object of token ids and numbers")
    if len(values) > MAX_BIASES:
        raise ValueError(f"has {len(values):,} entries, at most {MAX_BIASES:,} are possible")
    found = {}
    for key, value in values.items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20 and str(int(key)) == key):
            raise ValueError(f"{shown(key)} is not a token id; ids are whole numbers from 0, in quotes")
        if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
            raise ValueError(f"of id {key} is {shown(value)}, and must be a number from -100 to 100")
        found[int(key)] = float(value)
    return found


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not _all(stops, str):
        raise ValueError("must be a text or a list of texts")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"has {len(stops):,} texts, at most {MAX_STOPS} are possible")
    for stop in stops:
        if not stop:
            raise ValueError("has an empty text, which would end every answer at once; leave it out")
        if len(stop) > MAX_STOP_CHARACTERS:
            raise ValueError(f"has a text of {len(stop):,} characters, at most {MAX_STOP_CHARACTERS:,} are possible")
    return tuple(stops)


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


IDS_SCHEMA = _array({"type": "integer", "minimum": 0})
PROMPT_SCHEMA = {"anyOf": [{"type": "string"}, _array({"type": "string"}), IDS_SCHEMA, _array(IDS_SCHEMA)]}
LOGIT_BIAS_SCHEMA = {
    "type": "object",
    "maxProperties": MAX_BIASES,
    "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,18})$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}
STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
STOP_SCHEMA = {"anyOf": [STOP_TEXT, {"type": "array", "maxItems": MAX_STOPS, "items": STOP_TEXT}]}

# After validation, always: prompts as a list, ids as numbers, stops as a tuple.
Prompts = Annotated[list[str | list[int]], PlainValidator(_prompts), WithJsonSchema(PROMPT_SCHEMA)]
Bias = Annotated[dict[int, float], PlainValidator(_bias), WithJsonSchema(LOGIT_BIAS_SCHEMA)]
Stops = Annotated[tuple[str, ...], PlainValidator(_stops), WithJsonSchema(STOP_SCHEMA)]


class Body(BaseModel):
    """Base of what a client sends: types are exact, numbers finite, unknown fields refused."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", use_attribute_docstrings=True)


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    """end the stream with a chunk that has the token counts and no choices"""


class CompletionRequest(Body):
    """A prompt to continue. `null` stands for a field's default."""

    model: str | None = None
    """name of a served model, see /v1/models; can be left out where only one is served"""
    prompt: Prompts | None = None
    """a text, a list of texts, the token ids of one prompt, or a list of those; none or "" begins a document"""
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    """tokens to generate for each choice; 0 with `echo` and `logprobs` scores the prompt"""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = 1
    """continuations of each prompt"""
    temperature: Annotated[float, Field(ge=0)] | None = 1.0
    """0: always the most likely token; 1: the model's distribution"""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """sample from the most likely tokens whose probabilities add up to this; 0: the most likely one"""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """sample from this many most likely tokens"""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """sample from tokens that are at least this many times as likely as the most likely one"""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    """lower the logits of tokens that were generated before"""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    """lower the logit of a token for each time it was generated"""
    repetition_penalty: Annotated[float, Field(gt=0)] | None = 1.0
    """divide the logits of tokens in prompt and answer; 1: off"""
    logit_bias: Bias | None = None
    """token id -> number added to its logit; -100 excludes it, 100 excludes all others"""
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """return the log-probability of each token, and of this many most likely ones"""
    echo: bool | None = False
    """return the prompt in front of its continuation"""
    stop: Stops | None = None
    """texts before the first of which an answer ends"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """the same seed gives the same answer, whatever else is served; default: a new one"""
    stream: bool | None = False
    """send the answer while it is generated, as server-sent events"""
    stream_options: StreamOptions | None = None
    """only with `stream`"""
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """can only equal `n`: answers are not ranked"""
    user: str | None = None
    """has no effect"""
    suffix: str | None = None
    """not supported"""

    @model_validator(mode="before")
    @classmethod
    def _report_one_unknown_field(cls, values: Any) -> Any:
        """Drop further ones: a body can have a hundred thousand, and pydantic would report each."""
        unknown = [name for name in values if name not in cls.model_fields] if isinstance(values, dict) else []
        return (
            {name: value for name, value in values.items() if name in cls.model_fields or name == unknown[0]}
            if unknown
            else values
        )


class Logprobs(BaseModel):
    """Log-probabilities (nats) of a choice's tokens by the model's own distribution, before temperature and filters."""

    tokens: list[str]
    """text of each token; bytes that are no character by themselves as `bytes:` and their numbers"""
    token_logprobs: list[float | None]
    """null: the first token of an echoed prompt"""
    top_logprobs: list[dict[str, float] | None]
    """the most likely tokens and the chosen one"""
    text_offset: list[int]
    """where each token begins in the text of the choice, in characters"""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Choice(BaseModel):
    """One continuation, or the next part of one in a stream."""

    text: str
    index: int
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None

    def append(self, part: "Choice") -> None:
        """Add the part that follows."""
        self.text += part.text
        self.finish_reason = part.finish_reason
        if self.logprobs is None:
            self.logprobs = part.logprobs
        elif part.logprobs is not None:
            for name in Logprobs.model_fields:
                getattr(self.logprobs, name).extend(getattr(part.logprobs, name))


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """Answer to a completion request; in a stream, one of its chunks."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "groundup"


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """State of the server."""

    status: Literal["ok", "failing"]


class ErrorDetail(BaseModel):
    """What went wrong, and how to avoid it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer that is an error: status of HTTP, message, and OpenAI's names for its kind."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        text = single_line(message)
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        kind = "rate_limit_error" if status == 429 else kind
        if len(text) > MAX_MESSAGE_CHARACTERS:
            text = f"{text[: MAX_MESSAGE_CHARACTERS // 2]} … {text[-MAX_MESSAGE_CHARACTERS // 2 :]}"
        self.status, self.headers = status, dict(headers or {})
        self.body = Error(error=ErrorDetail(message=text, type=kind, param=param, code=code)).model_dump_json()


def shown(value: Any) -> str:
    """A value from a request, in a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


ADVICE = {
    "messages": "models trained here continue a text and do not chat; send the text as `prompt`",
    "max_completion_tokens": "in completions this is max_tokens",
    "max_new_tokens": "in completions this is max_tokens",
    "repeat_penalty": "here this is repetition_penalty",
}


def describe(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's errors as a sentence that names the field."""
    first = errors[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    kind, value, field = first["type"], first.get("input"), path[0] if path else None
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    if field is None:
        missing = kind == "missing" or value is None
        what = "is missing" if missing else "is no JSON object, or not sent as JSON"
        return ApiError(400, f"the body {what}; send an object, with the header Content-Type: application/json")
    if kind == "extra_forbidden":
        advice = ADVICE.get(field) or did_you_mean(path[-1], CompletionRequest.model_fields)
        return ApiError(400, f"{shown('.'.join(path))}: unknown field; {advice}", param=field)
    if kind == "value_error":
        return ApiError(400, f"{field} {first['ctx']['error']}", param=field)
    name = ".".join(
        part for part in path if part in CompletionRequest.model_fields or part in StreamOptions.model_fields
    )
    message = str(first["msg"]).replace("Input should", "should", 1)
    return ApiError(400, f"{name} {shown(value)}: {message}", param=field)
