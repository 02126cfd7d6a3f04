"""A web page on which a language model continues a visitor's text.

    pip install -r requirements.txt
    python app.py

Then open http://127.0.0.1:7860; GRADIO_SERVER_NAME and GRADIO_SERVER_PORT choose another address. On the hub this file
runs unchanged. `groundup export --to space` wrote it, and it is yours to change. What the page shows about the model is
in README.md.
"""

from __future__ import annotations

import math
import os
import secrets
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn
from urllib.parse import parse_qs

HERE = Path(__file__).resolve().parent


def give_up(message: str) -> NoReturn:
    """Print an error and exit with status 2."""
    print(f"app.py: {message}", file=sys.stderr)
    raise SystemExit(2)


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if cores := os.environ.get("CPU_CORES"):  # set by the hub: the cores that this Space may use
    os.environ.setdefault("OMP_NUM_THREADS", cores)
wheels = sorted(HERE.glob("groundup-*.whl"))
if not wheels:
    give_up(f"{HERE}: the wheel groundup-….whl is missing; copy the whole folder again")
if len(wheels) > 1:
    give_up(f"{HERE}: holds {', '.join(path.name for path in wheels)}; delete all but the one that came with the model")
sys.path.insert(0, str(wheels[0]))  # Python imports from the wheel without installing it
try:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse

    import groundup
except ImportError as error:
    give_up(f"{error}; run pip install -r requirements.txt, and if that does not help copy the whole folder again")

MAX_CONCURRENT = 2  # generations at once: each slows down the others; further visitors wait in a queue
MAX_QUEUED = 50  # beyond that a visitor is asked to come back later
MAX_TOKENS = 1000  # of all samples of a request together
REFRESH_SECONDS = 0.05  # between two updates of a growing text
UNHEARD_SECONDS = 5  # after which a text that no client reads is stopped
MAX_BODY_BYTES = 1 << 20  # of a request: a prompt, of which only the end is used
POSTS = ("/queue/join", "/cancel", "/reset", "/call/write", "/call/v2/write")  # gradio has others, such as uploads

# Accepted values, from the page or from its API: name -> minimum, maximum, default.
RANGES = {
    "length": (1, 1000, 200),
    "samples": (1, 4, 1),
    "temperature": (0.0, 2.0, 0.8),
    "top-k": (0, 1000, 0),
    "top-p": (0.01, 1.0, 1.0),
    "seed": (0, 2**31 - 1, 0),
}

CSS = """
.gradio-container { max-width: 52rem !important; margin: 0 auto !important; --block-title-padding: 0;
    --block-title-background-fill: none; --block-title-text-color: var(--body-text-color); }
#facts { opacity: .65; font-size: .85em; }
#result, #result > div { padding: 0 !important; }
#more thead { display: none; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; margin: 0 0 .75rem; padding: 1rem 1.25rem;
    border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
    background: var(--block-background-fill); color: var(--body-text-color); }
.mono { font-family: var(--font-mono); font-size: .92em; }
.prompt { color: var(--body-text-color-subdued); }
.note { color: var(--body-text-color-subdued); font-size: .85em; margin: 0 .25rem; }
"""


def about() -> tuple[str, str, str, str]:
    """From README.md: title, first paragraph, summary of the model, and the other sections except for its use."""
    path = HERE / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    body, _, more = text.partition("\n---\n")[2].partition("\n## Data\n")
    title, first, facts, *_ = [*filter(None, body.partition("\n## ")[0].strip().split("\n\n")), "", "", ""]
    return (
        title.rpartition("/")[2].removeprefix("# ") or HERE.name,
        first,
        facts,
        f"### Data\n{more}".replace("\n## ", "\n### ") if more else "",
    )


def number(name: str, value: Any) -> float:
    """Check a value from outside; gradio.Error unless it is a number in its range."""
    minimum, maximum, default = RANGES[name]
    if not isinstance(value, int | float) or not minimum <= value <= maximum:
        raise gr.Error(f"{name} {value!r:.20}: must be a number from {minimum} to {maximum}", print_exception=False)
    return math.floor(value) if isinstance(default, int) else float(value)


class Gate:
    """ASGI middleware that refuses what the page does not need, and counts who listens to which job."""

    def __init__(self, app: Any, listening: Counter[str]) -> None:
        self.app, self.listening = app, listening

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            length = dict(scope["headers"]).get(b"content-length", b"")
            if scope["method"] != "POST" or not path.endswith(POSTS):
                await PlainTextResponse("Not found", 404)(scope, receive, send)
                return
            if not (length.isdigit() and len(length) < 10 and int(length) <= MAX_BODY_BYTES):
                await PlainTextResponse(f"At most {MAX_BODY_BYTES:,} bytes", 413)(scope, receive, send)
                return
        # The page listens for its session; a job without a session is one of its own, named as the job.
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [path.rpartition("/")[2]])[0]
        self.listening[session] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.listening[session] -= 1
            if not self.listening[session]:
                del self.listening[session]


class Writer:
    """Generates text for any number of visitors; only local variables of `write` belong to one of them."""

    def __init__(self, folder: Path) -> None:
        self.model = groundup.load(folder)
        self.context = self.model.config.model.block_size
        self.listening: Counter[str] = Counter()  # by session
        self.style = "text mono" if self.model.tokenizer.name in ("byte", "char") else "text"

    def write(
        self,
        prompt: Any,
        length: Any,
        samples: Any,
        temperature: Any,
        k: Any,
        p: Any,
        seed: Any,
        fresh: Any,
        request: gr.Request | None = None,
    ) -> Iterator[tuple[str, float]]:
        """Yield the growing texts as HTML, and their seed: the given one, or with `fresh` a new one.

        A text to which the visitor of `request` does not listen is given up.
        """
        given = zip(RANGES, (length, samples, temperature, k, p, seed), strict=True)
        options = {name: number(name, value) for name, value in given if not (fresh and name == "seed")}
        if options["length"] * options["samples"] > MAX_TOKENS:
            asked = f"{options['samples']} samples of {options['length']} tokens"
            raise gr.Error(f"{asked}: ask for at most {MAX_TOKENS:,} tokens in all", print_exception=False)
        chosen = secrets.randbelow(2**31) if fresh else int(options["seed"])
        top_k, top_p = int(options["top-k"]) or None, options["top-p"] if options["top-p"] < 1 else None
        sampler = groundup.Sampler(options["temperature"], top_k, top_p, chosen)
        try:
            read, seen, note = self.fit_prompt(str(prompt or ""))
            texts, shown, start = [""] * int(options["samples"]), 0.0, monotonic()
            for pieces in groundup.generate_stream(
                self.model, read, sampler, num_samples=len(texts), max_tokens=int(options["length"])
            ):
                texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
                if monotonic() - shown >= REFRESH_SECONDS:
                    heard = request is None or request.session_hash in self.listening
                    if not heard and monotonic() - start > UNHEARD_SECONDS:
                        return
                    yield self.to_html(seen, texts, note), chosen
                    shown = monotonic()
        except groundup.GroundupError as error:
            raise gr.Error(str(error), print_exception=False) from None
        yield self.to_html(seen, texts, note), chosen

    def fit_prompt(self, prompt: str) -> tuple[str, str, str]:
        """The end of a prompt that fits the model's context, the same after tokenization, and a note if it was cut.

        Only the end of a long prompt is encoded: a token is usually at least a character.
        """
        tokenizer, kept = self.model.tokenizer, min(self.context, len(prompt))

        def tokens(end: int) -> int:
            return len(tokenizer.encode(prompt[len(prompt) - end :]))

        while tokens(kept) < self.context and kept < len(prompt):
            kept = min(2 * kept, len(prompt))
        kept = bisect_right(range(1, kept + 1), self.context, key=tokens)
        read = prompt[len(prompt) - kept :]
        seen = tokenizer.decode(tokenizer.encode(read).tolist()) if tokenizer.lossy else read
        note = f"The context is {self.context:,} tokens: only the last {kept:,} of {len(prompt):,} characters are used."
        return read, seen, note if kept < len(prompt) else ""

    def to_html(self, prompt: str, texts: list[str], note: str) -> str:
        """The texts so far as HTML; everything from the model or the visitor is escaped."""
        start = f'<span class="prompt">{escape(prompt)}</span>' if prompt else ""
        message = f'<p class="note">{escape(note)}</p>' if note else ""
        return message + "".join(f'<div class="{self.style}">{start}{escape(text)}</div>' for text in texts)


def page(writer: Writer) -> gr.Blocks:
    """Build the page, without starting its server."""
    title, first, facts, more = about()

    def slider(name: str, step: float, label: str, info: str | None = None) -> gr.Slider:
        minimum, maximum, value = RANGES[name]
        return gr.Slider(minimum, maximum, value, step=step, label=label, info=info)

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}\n\n{first}")
        gr.Markdown(facts, elem_id="facts")
        prompt = gr.Textbox(
            label="Prompt", placeholder="Text to continue; empty: a new text", lines=3, max_lines=12, autofocus=True
        )
        with gr.Row():
            go = gr.Button("Generate", variant="primary", scale=3, min_width=160)
            halt = gr.Button("Stop", variant="stop", scale=1, min_width=80)
        with gr.Row():
            length = slider("length", 1, "Tokens")
            samples = slider("samples", 1, "Samples")
        with gr.Accordion("Sampling", open=False):
            with gr.Row():
                temperature = slider("temperature", 0.05, "Temperature", "0: always the most likely token")
                k = slider("top-k", 1, "Top-k", "0: all tokens")
                p = slider("top-p", 0.01, "Top-p", "1: all tokens")
            with gr.Row():
                seed = gr.Number(RANGES["seed"][2], label="Seed", info="the same seed gives the same text", precision=0)
                fresh = gr.Checkbox(True, label="A new seed each time")
        result = gr.HTML(label="Generated text", elem_id="result")
        if more:
            with gr.Accordion("About this model", open=False):
                gr.Markdown(more, elem_id="more")
        writing = gr.on(
            [go.click, prompt.submit],
            writer.write,
            [prompt, length, samples, temperature, k, p, seed, fresh],
            [result, seed],
            api_name="write",
            preprocess=False,  # `number` checks the values
            concurrency_limit=MAX_CONCURRENT,
            show_progress="minimal",
            show_progress_on=result,
        )
        halt.click(None, cancels=[writing], api_visibility="private")
    return blocks.queue(max_size=MAX_QUEUED)


def main() -> None:
    """Serve the page, on this machine alone unless it runs in a Space."""
    try:
        writer = Writer(HERE / "model")
    except groundup.GroundupError as error:
        give_up(str(error))
    here = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"  # noqa: S104
    system = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # the visitor's own fonts: none is downloaded
    try:
        page(writer).launch(
            server_name=os.environ.get("GRADIO_SERVER_NAME", here),
            share=False,
            ssr_mode=False,
            footer_links=["gradio"],
            theme=gr.themes.Soft(primary_hue="emerald", font=system[0], font_mono=system[1]),
            css=CSS,
            app_kwargs={"middleware": [Middleware(Gate, listening=writer.listening)]},
        )
    except OSError as error:  # the address is in use
        give_up(str(error))


if __name__ == "__main__":
    main()
