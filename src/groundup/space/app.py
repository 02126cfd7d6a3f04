"""A page on which a language model writes on from what a visitor begins.

    pip install -r requirements.txt
    python app.py

Then open http://127.0.0.1:7860; GRADIO_SERVER_NAME and GRADIO_SERVER_PORT choose another place. On the hub this file
runs as it is. `groundup export --to space` wrote it, and it is yours to change. What the page says of the model stands
in README.md.
"""

from __future__ import annotations

import math
import os
import secrets
import sys
from bisect import bisect_right
from collections.abc import Iterator
from html import escape
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent


def give_up(sentence: str) -> NoReturn:
    """Say what is wrong, and end."""
    print(f"app.py: {sentence}", file=sys.stderr)
    raise SystemExit(2)


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if cores := os.environ.get("CPU_CORES"):  # the hub's word for how many of the machine's are ours
    os.environ.setdefault("OMP_NUM_THREADS", cores)
wheels = sorted(HERE.glob("groundup-*.whl"))
if not wheels:
    give_up(f"{HERE}: the wheel groundup-….whl is missing; copy the whole folder again")
if len(wheels) > 1:
    give_up(f"{HERE}: holds {', '.join(path.name for path in wheels)}; delete all but the one that came with the model")
sys.path.insert(0, str(wheels[0]))  # a wheel of Python alone is used as it lies
try:
    import gradio as gr

    import groundup
except ImportError as error:
    give_up(f"{error}; run pip install -r requirements.txt, and if that does not help copy the whole folder again")

VISITORS = 2  # that are written for at once: each more would slow down all; the others wait in line
WAITING = 50  # in that line; beyond it a visitor is told to come back
PAUSE = 0.05  # seconds between two pictures of a growing text

# What may be asked for, here and past the page: name -> least, most, at first.
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
    """From README.md: the title, what to say first, the facts in a line, and the rest but for how to use it."""
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
    """A value that came from outside; a sentence where it is none that the page offers."""
    least, most, first = RANGES[name]
    if not isinstance(value, int | float) or not least <= value <= most:
        raise gr.Error(f"{name} {value!r:.20}: must be a number from {least} to {most}", print_exception=False)
    return math.floor(value) if isinstance(first, int) else float(value)


class Writer:
    """The model, for any number of visitors: what belongs to one of them is in `write` alone."""

    def __init__(self, folder: Path) -> None:
        self.model = groundup.load(folder)
        self.context = self.model.config.model.block_size
        self.style = "text mono" if self.model.tokenizer.name in ("byte", "char") else "text"

    def write(
        self, prompt: Any, length: Any, samples: Any, temperature: Any, k: Any, p: Any, seed: Any, fresh: Any
    ) -> Iterator[tuple[str, float]]:
        """The texts as they grow, in HTML, and the seed they come from: the one given, or with `fresh` a new one."""
        given = zip(RANGES, (length, samples, temperature, k, p, seed), strict=True)
        asked = {name: number(name, value) for name, value in given if not (fresh and name == "seed")}
        chosen = secrets.randbelow(2**31) if fresh else int(asked["seed"])
        sampler = groundup.Sampler(
            asked["temperature"], int(asked["top-k"]) or None, asked["top-p"] if asked["top-p"] < 1 else None, chosen
        )
        try:
            read, seen, note = self.reads(str(prompt or ""))
            texts, shown = [""] * int(asked["samples"]), 0.0
            for pieces in groundup.generate_stream(
                self.model, read, sampler, num_samples=len(texts), max_tokens=int(asked["length"])
            ):
                texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
                if monotonic() - shown >= PAUSE:
                    yield self.picture(seen, texts, note), chosen
                    shown = monotonic()
        except groundup.GroundupError as error:
            raise gr.Error(str(error), print_exception=False) from None
        yield self.picture(seen, texts, note), chosen

    def reads(self, prompt: str) -> tuple[str, str, str]:
        """The end of a prompt that fits the model's context, as the model sees it, and what to say of the rest.

        No more of a long prompt is encoded than that takes: a token is at least a character, as a rule.
        """
        tokenizer, kept = self.model.tokenizer, min(self.context, len(prompt))

        def tokens(end: int) -> int:
            return len(tokenizer.encode(prompt[len(prompt) - end :]))

        while tokens(kept) < self.context and kept < len(prompt):
            kept = min(2 * kept, len(prompt))
        kept = bisect_right(range(1, kept + 1), self.context, key=tokens)
        read = prompt[len(prompt) - kept :]
        seen = tokenizer.decode(tokenizer.encode(read).tolist()) if tokenizer.lossy else read
        if kept == len(prompt):
            return read, seen, ""
        note = f"The model reads no more than {self.context:,} tokens: of {len(prompt):,} characters the last {kept:,}."
        return read, seen, note

    def picture(self, prompt: str, texts: list[str], note: str) -> str:
        """The texts so far. Nothing in them is HTML, whatever the model or the visitor wrote."""
        begun = f'<span class="prompt">{escape(prompt)}</span>' if prompt else ""
        said = f'<p class="note">{escape(note)}</p>' if note else ""
        return said + "".join(f'<div class="{self.style}">{begun}{escape(text)}</div>' for text in texts)


def page(writer: Writer) -> gr.Blocks:
    """The page, not yet on air."""
    title, first, facts, more = about()

    def slider(name: str, step: float, label: str, info: str | None = None) -> gr.Slider:
        least, most, value = RANGES[name]
        return gr.Slider(least, most, value, step=step, label=label, info=info)

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}\n\n{first}")
        gr.Markdown(facts, elem_id="facts")
        prompt = gr.Textbox(
            label="Begin", placeholder="The first words, or nothing at all", lines=3, max_lines=12, autofocus=True
        )
        with gr.Row():
            go = gr.Button("Write on", variant="primary", scale=3, min_width=160)
            halt = gr.Button("Stop", variant="stop", scale=1, min_width=80)
        with gr.Row():
            length = slider("length", 1, "Tokens")
            samples = slider("samples", 1, "Texts")
        with gr.Accordion("How it chooses", open=False):
            with gr.Row():
                temperature = slider("temperature", 0.05, "Temperature", "0: the likeliest")
                k = slider("top-k", 1, "Top-k", "0: of all tokens")
                p = slider("top-p", 0.01, "Top-p", "1: of all tokens")
            with gr.Row():
                seed = gr.Number(
                    RANGES["seed"][2], label="Seed", info="the same seed writes the same text", precision=0
                )
                fresh = gr.Checkbox(True, label="A new seed each time")
        result = gr.HTML(label="What it wrote", elem_id="result")
        if more:
            with gr.Accordion("About this model", open=False):
                gr.Markdown(more, elem_id="more")
        writing = gr.on(
            [go.click, prompt.submit],
            writer.write,
            [prompt, length, samples, temperature, k, p, seed, fresh],
            [result, seed],
            api_name="write",
            preprocess=False,  # `number` looks at what comes
            concurrency_limit=VISITORS,
            show_progress="minimal",
            show_progress_on=result,
        )
        halt.click(None, cancels=[writing], api_visibility="private")
    return blocks.queue(max_size=WAITING)


def main() -> None:
    """Open the page, to this machine alone unless it is a Space's."""
    try:
        writer = Writer(HERE / "model")
    except groundup.GroundupError as error:
        give_up(str(error))
    here = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"  # noqa: S104
    system = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the visitor's own: none is fetched
    try:
        page(writer).launch(
            server_name=os.environ.get("GRADIO_SERVER_NAME", here),
            share=False,
            ssr_mode=False,
            footer_links=["gradio"],
            theme=gr.themes.Soft(primary_hue="emerald", font=system[0], font_mono=system[1]),
            css=CSS,
        )
    except OSError as error:  # there is another at that place
        give_up(str(error))


if __name__ == "__main__":
    main()
