"""A step in C++ gives the logits of the model's own modules, for every preset's shape and type of weights."""

import platform
import random
from copy import deepcopy

import pytest
import torch
from torch import nn

from groundup.generation import compiled_decoder
from groundup.generation.compiled_decoder import CompiledDecoder, unsupported
from groundup.generation.decoder import new_decoder
from groundup.generation.engine import Request
from groundup.generation.model_decoder import ModelDecoder
from groundup.generation.sampling import Sampling
from groundup.kernels import cpu_build, decode
from groundup.model.quantized import quantize

CPU, CONTEXT = torch.device("cpu"), 16
PARTS = ["gpt1", "gpt2", "modern", "nanochat", "fast", "fast-small"]
KINDS = ["fp32", "bf16", "int8"]
# Three and four groups of inputs that share a scale, the last shorter.
WIDE = {"n_embd": 132, "n_inner": 200, "n_head": 2}

pytestmark = pytest.mark.skipif(cpu_build.kernels("decode").library is None, reason="no C++ compiler that works here")


def ids(n: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(256) for _ in range(n)]


def quantized(model, kind: str):
    """A copy with random weights of norms and random biases, which would else be ones and zeros."""
    model = deepcopy(model)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            if parameter.dim() == 1 and parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return model if kind == "fp32" else quantize(model, kind)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within rounding; the promise is 1e-4 of the largest logit."""
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PARTS)
@torch.inference_mode()
def test_steps_equal_the_model_s(name, kind, model_of):
    model = quantized(model_of(name), kind)
    expected, found = ModelDecoder(model, CPU, 4), CompiledDecoder(model, CPU, 4)
    for seed, counts in enumerate([(1, 1, 1), (3, 1, 5), (1, 4, 2, 3), (2,)]):
        rows = [ids(n, 10 * seed + i) for i, n in enumerate(counts)]
        assert_close(found.step(rows), expected.step(rows))
    for slots in (expected.slots, found.slots):  # of 7, 6, 7 and 3 tokens
        slots.truncate(1, 4)
        slots.move(2, 0)
        slots.clear(3)
        slots.load(2, slots.save(1))
        slots.truncate(2, 2)
    rows = [ids(n, n) for n in (2, 1, 3, 9)]
    assert_close(found.step(rows), expected.step(rows))
    assert_close(found.extend(1, ids(6), 3), expected.extend(1, ids(6), 3))
    assert_close(found.extend(2, ids(5), 1), expected.extend(2, ids(5), 1))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="options of x86 compilers")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx2", "-mno-avx"])
@torch.inference_mode()
def test_cpus_with_shorter_vectors(without, model_of, monkeypatch):
    options = {name: (*given, without) for name, given in cpu_build.SOURCE_OPTIONS.items()}
    monkeypatch.setattr(cpu_build, "SOURCE_OPTIONS", options)
    compiled = cpu_build.kernels.__wrapped__("decode")
    monkeypatch.setattr(decode, "kernels", lambda source: compiled)
    for kind in KINDS:
        model = quantized(model_of("modern", **WIDE), kind)
        rows = [ids(1, i) for i in range(7)]  # computed as four, two and one
        together = CompiledDecoder(model, CPU, 7).step(rows)
        assert_close(together, ModelDecoder(model, CPU, 7).step(rows))
        for row, logits in zip(rows, together, strict=True):
            assert torch.equal(CompiledDecoder(model, CPU, 1).step([row])[0], logits)


@pytest.mark.parametrize(
    "shape",
    [
        {"n_embd": 30, "n_inner": 50, "n_head": 3},  # widths that are no multiple of a vector's
        WIDE,
        {"activation": "gelu"},
        {"activation": "relu"},
        {"norm": "layernorm", "bias": True, "qk_norm": "after_rotary", "position_embedding": "rotary"},
        {
            "norm": "rmsnorm",
            "qk_norm": "before_rotary",
            "position_embedding": "rotary_ccw",
            "norm_position": "post_norm",
        },
        {"norm": "layernorm", "qk_norm": "after_rotary", "logit_softcap": 5.0, "embedding_norm": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_mixtures_of_parts_equal_the_model_s(kind, shape, model_of):
    model = quantized(model_of("gpt2", **shape), kind)
    expected, found = ModelDecoder(model, CPU, 3), CompiledDecoder(model, CPU, 3)
    for seed in range(2):
        rows = [ids(n, seed + n) for n in (3, 1, 4)]
        assert_close(found.step(rows), expected.step(rows))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "shape"), [("gpt1", {}), ("modern", {}), ("fast", {}), ("modern", WIDE)])
@torch.inference_mode()
def test_a_row_is_the_same_bit_for_bit_alone_and_beside_others(name, shape, kind, model_of):
    model = quantized(model_of(name, vocab_multiple=1, **shape), kind)  # 257 outputs: not a multiple of a share
    together, rows = CompiledDecoder(model, CPU, 11), [ids(8, seed) for seed in range(11)]
    steps = [together.step([[row[i]] for row in rows]) for i in range(8)]  # (11, V) each
    for slot, row in enumerate(rows):
        alone = CompiledDecoder(model, CPU, 1)
        for i in range(8):
            assert torch.equal(alone.step([[row[i]]])[0], steps[i][slot])
    assert torch.equal(CompiledDecoder(model, CPU, 1).step([rows[3]]), torch.stack([step[3] for step in steps]))


@torch.inference_mode()
def test_any_number_of_threads_gives_the_same_bits(model_of, monkeypatch):
    monkeypatch.setattr(compiled_decoder, "WEIGHT_BYTES_PER_THREAD", 1)
    model, before, found = model_of("modern", vocab_multiple=1, **WIDE), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(CompiledDecoder(model, CPU, 3).step([ids(5), ids(1), ids(7)]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", PARTS)
def test_greedy_texts_are_those_of_forward_passes_past_the_context(name, model_of, generate, follows_greedily):
    model = quantized(model_of(name), "int8")
    assert isinstance(new_decoder(model, CPU, 1), CompiledDecoder)
    for n in (1, CONTEXT, CONTEXT + 9):
        tokens = generate(model, ids(n), 4 * CONTEXT)
        follows_greedily(model, ids(n), tokens)


@torch.inference_mode()
def test_a_prompt_too_long_for_one_call_is_read_by_the_model(model_of):
    model = model_of("fast", block_size=64)
    expected, found = ModelDecoder(model, CPU, 2), CompiledDecoder(model, CPU, 2)
    for decoder in (expected, found):
        decoder.extend(1, ids(3), 0)
    for n in (40, 5):
        assert_close(found.extend(1, ids(n, n), 4), expected.extend(1, ids(n, n), 4))


@torch.inference_mode()
def test_more_tokens_than_the_context_are_refused(model_of):
    decoder = CompiledDecoder(model_of(), CPU, 1)
    decoder.extend(0, ids(CONTEXT), 1)
    with pytest.raises(ValueError, match="16 cached and 1 new tokens exceed the context of 16"):
        decoder.step([[0]])


@torch.inference_mode()
def test_nan_stays_nan(model_of):
    model = deepcopy(model_of("modern"))
    model.wte.weight[7] = torch.nan
    assert CompiledDecoder(model, CPU, 1).step([[7]]).isnan().all()


def test_without_a_compiler_the_model_decodes_and_says_why(model_of, run_engine, monkeypatch):
    request = Request(tuple(ids(5)), 9, Sampling(seed=1))
    with_compiler = run_engine(model_of(), [request])
    missing = cpu_build.Kernels(None, reason="no C++ compiler (g++)", remedy="install one")
    monkeypatch.setattr("groundup.kernels.decode.kernels", lambda source: missing)
    decoder = new_decoder(model_of(), CPU, 1)
    assert isinstance(decoder, ModelDecoder)
    assert decoder.describe() == "PyTorch; no C++: no C++ compiler (g++)"
    texts = [
        [[piece.text for piece in row] for row in found[0]]
        for found in (with_compiler, run_engine(model_of(), [request]))
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_says_how_it_computes(kind, model_of, monkeypatch):
    assert new_decoder(quantized(model_of(), kind), CPU, 1).describe() == f"C++, {kind}, 1 thread"  # a small model
    monkeypatch.setattr(compiled_decoder, "WEIGHT_BYTES_PER_THREAD", 1)
    before = torch.get_num_threads()
    try:
        for threads, words in ((1, "1 thread"), (2, "2 threads")):
            torch.set_num_threads(threads)
            assert new_decoder(quantized(model_of(), kind), CPU, 1).describe() == f"C++, {kind}, {words}"
    finally:
        torch.set_num_threads(before)


class OtherLinear(nn.Linear):
    """A layer that the C++ does not know."""


def test_models_that_the_kernel_does_not_know_are_left_to_torch(model_of):
    half = deepcopy(model_of()).bfloat16()
    assert unsupported(half) == "wte.weight is not in fp32 in main memory"
    changed = deepcopy(model_of())
    changed.h[1].mlp.c_fc.__class__ = OtherLinear
    assert unsupported(changed) == "h.1.mlp.c_fc is a OtherLinear"
    assert unsupported(deepcopy(model_of()).to("meta")) == "wte.weight is not in fp32 in main memory"
    assert isinstance(new_decoder(changed, CPU, 1), ModelDecoder)
    assert unsupported(model_of()) == ""


def test_what_was_changed_about_a_model_is_not_passed_over(model_of):
    model = deepcopy(model_of())
    removed = model.h[0].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert unsupported(model) == "h.0.mlp has hooks"
    removed.remove()
    assert unsupported(model) == ""
    model.h[0].mlp.__class__ = type("Doubled", (type(model.h[0].mlp),), {"__module__": __name__})
    assert unsupported(model) == "h.0.mlp is a Doubled"
    model = deepcopy(model_of())
    model.__class__ = type("OtherGPT", (type(model),), {"__module__": __name__})
    assert unsupported(model) == "the model is a OtherGPT"
    model = deepcopy(model_of())
    model.ln_f = nn.GroupNorm(1, 1)
    with pytest.raises(AssertionError, match="GroupNorm is no norm of a GPT"):
        CompiledDecoder(model, CPU, 1)
