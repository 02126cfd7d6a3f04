"""Other programs that generate with a groundup model, each in a process of its own: reads requests, writes answers.

Run by an interpreter that has these programs, which may be another one than groundup's: standard library alone here.
A request and an answer are a line of JSON. The first answer says what was loaded, or `failed` and why.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

Generate = Callable[[list[int], int], list[int]]
"""prompt and number of tokens -> greedy continuation"""


def transformers(folder: Path, threads: int, dtype: str) -> Generate:
    """`generate` of transformers, with its cache; in bf16 only where the CPU has units for it: others take minutes."""
    import torch
    from transformers import AutoModelForCausalLM

    if dtype == "bfloat16" and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        raise RuntimeError("this CPU has no bf16 units")
    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=dtype)
    model.generation_config.eos_token_id = None

    def generate(prompt: list[int], tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        return list(found[0, len(prompt) :].tolist())

    return generate


def ctranslate2(folder: Path, threads: int, kind: str) -> Generate:
    """CTranslate2, converted from the folder of transformers."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    names = AutoTokenizer.from_pretrained(folder / "hf").convert_ids_to_tokens
    with tempfile.TemporaryDirectory() as converted:
        TransformersConverter(str(folder / "hf")).convert(converted, quantization=kind, force=True)
        settings = Path(
            converted, "config.json"
        )  # must name a token for unknown text, which a tokenizer of bytes lacks
        values = json.loads(settings.read_text())
        settings.write_text(json.dumps(values | {"unk_token": values.get("unk_token") or values["eos_token"]}))
        generator = ctranslate2.Generator(
            converted, device="cpu", compute_type=kind, inter_threads=1, intra_threads=threads
        )

    def generate(prompt: list[int], tokens: int) -> list[int]:
        lengths = {"min_length": tokens, "max_length": tokens}
        (found,) = generator.generate_batch([names(prompt)], include_prompt_in_result=False, **lengths)
        return list(found.sequences_ids[0])

    return generate


def llama_cpp(folder: Path, threads: int, kind: str) -> Generate:
    """llama.cpp through its Python package; fp32 keys and values with fp32 weights, otherwise its default, fp16."""
    import llama_cpp

    cache = dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32 if kind == "f32" else None)
    llama = llama_cpp.Llama(
        str(folder / f"{kind}.gguf"), n_ctx=0, n_threads=threads, n_threads_batch=threads, verbose=False, **cache
    )

    def generate(prompt: list[int], tokens: int) -> list[int]:
        llama.reset()  # it would not read the same prompt again
        return list(islice(llama.generate(prompt, temp=0.0), tokens))

    return generate


PEERS: dict[str, tuple[str, Callable[[Path, int], Generate]]] = {
    "transformers, fp32": ("transformers", partial(transformers, dtype="float32")),
    "transformers, bf16": ("transformers", partial(transformers, dtype="bfloat16")),
    "CTranslate2, fp32": ("ctranslate2", partial(ctranslate2, kind="float32")),
    "CTranslate2, int8": ("ctranslate2", partial(ctranslate2, kind="int8")),
    "llama.cpp, fp32": ("llama_cpp_python", partial(llama_cpp, kind="f32")),
    "llama.cpp, q8_0": ("llama_cpp_python", partial(llama_cpp, kind="q8_0")),
}
"""Name -> the package and what loads the model."""


def main(name: str, folder: str, threads: str) -> None:
    """Load the model, then answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the programs print is no answer

    def say(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    package, load = PEERS[name]
    try:
        generate = load(Path(folder), int(threads))
        say(loaded=f"{package} {version(package)}")
        for line in sys.stdin:
            request = json.loads(line)
            started = time.perf_counter()
            for _ in range(request["repeats"]):
                tokens = generate(request["prompt"], request["tokens"])
            say(seconds=time.perf_counter() - started, tokens=tokens)
    except Exception as error:  # peers can raise anything; the others continue
        lines = str(error).strip().splitlines() or [""]
        say(failed=f"{type(error).__name__}: {lines[0]}"[:200])


if __name__ == "__main__":
    main(*sys.argv[1:])
