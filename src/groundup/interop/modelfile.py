"""The `Modelfile` that goes with a GGUF file, for ollama. No torch.

Format: ollama's `docs/modelfile.mdx`, and its `parser/parser.go` for what a line may hold.
"""

import hashlib
from pathlib import Path

from groundup.errors import UsageError
from groundup.utils.reading import read_bytes

FIRST_LINE = "# Written by groundup export; its lines have the SHA-256 "

# What it says of sampling is what `groundup generate` does; ollama's own defaults leave out unlikely tokens.
LINES = """# The prompt goes to the model unchanged, and the model continues it: it was not trained to chat.
# It stops where a text ends, by the token that {file} names for that.
FROM ./{file}
TEMPLATE \"\"\"{{{{ .Prompt }}}}\"\"\"
PARAMETER num_ctx {context}
PARAMETER temperature 0.8
PARAMETER top_k 0
PARAMETER top_p 1
PARAMETER repeat_penalty 1
"""


def path_for(gguf: Path) -> Path:
    """The Modelfile of `book.gguf` is `book.Modelfile`, next to it. UsageError where it could not name that file."""
    if not gguf.name.isprintable():
        raise UsageError(f"{gguf.name!r}: a Modelfile cannot name such a file; give another --out")
    return gguf.with_name(f"{gguf.name.removesuffix('.gguf')}.Modelfile")


def text(gguf: Path, context: int, licence: str) -> str:
    """The contents; `context` in tokens, `licence` an SPDX identifier or empty."""
    lines = LINES.format(file=gguf.name, context=context) + (f"LICENSE {licence}\n" if licence else "")
    return f"{FIRST_LINE}{hashlib.sha256(lines.encode()).hexdigest()}\n{lines}"


def is_export(path: Path) -> bool:
    """Whether the file is as an export wrote it. OSError or ValueError where it cannot be read."""
    first, _, lines = read_bytes(path).partition(b"\n")
    return first.decode(errors="replace") == FIRST_LINE + hashlib.sha256(lines).hexdigest()
