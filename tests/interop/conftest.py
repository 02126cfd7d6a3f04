"""Fixtures of import and export: checkpoints that no run trained, a tokenizer."""

import random
import unicodedata

import pytest

from groundup.config.presets import PRESETS
from groundup.distributed.gather import state_tensors
from groundup.tokenizers.byte_char import ByteTokenizer

AWKWARD = (
    "Hello", "world", " the", "'s", "'S", "'ll", "I'm", "don't", " 's", "x != y", "hello !", "naïve", "ß", "é", "—",
    unicodedata.normalize("NFD", "naïve Ångström"), "\N{GRINNING FACE}", "\N{WOMAN}\u200d\N{WOMAN}\u200d\N{GIRL}",
    "\U0001f1f0\U0001f1f7", "한국어", "\u1100\u1161\u11a8", "日本語", "ﬁ", "Ⅷ", "½", "१२३", "\u0085", "\u00a0",
    "\u3000", "\u2028", "\u200b", "\ufeff", "\u064e", "\r\n", "\r", "\n", "\n\n\n", "\t", "\t\t ", "\x00", "\x1c",
    "\x7f", "<|endoftext|>", "a<|endoftext|>b", "</s>", "<|im_end|>", "<s>", "▁", "Ġ", "Ċ",
    *(" " * n for n in range(1, 21)), *("1234567890123"[:n] for n in range(1, 13)),
)  # fmt: skip

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "dropout": 0.0, "vocab_multiple": 64}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Make a checkpoint of a preset's parts at tiny size with random weights; `moments`: with optimizer state."""
    import torch

    from groundup.checkpoint import state
    from groundup.config.schema import Config
    from groundup.model import build_model
    from groundup.optim.optimizer import build_optimizer
    from groundup.tokenizers.registry import choose_tokenizer

    def make(preset="gpt2", tokenizer=None, *, average=False, moments=False, **changes):
        tokenizer = tokenizer or choose_tokenizer("byte")
        row = PRESETS[preset]
        model = {**row["model"], **SIZES, "vocab_size": tokenizer.n_vocab, **changes}
        optimizer = {**row["optimizer"], **({"ema_decay": 0.9} if average else {})}
        train = {"max_steps": 10, "batch_tokens": 2 * model["block_size"]}
        config = Config.model_validate({"model": model, "optimizer": optimizer, "train": train})
        torch.manual_seed(0)
        gpt = build_model(config.model)
        rule = build_optimizer(gpt.named_parameters(), config.optimizer)
        with torch.no_grad():
            for parameter in gpt.parameters():
                parameter.normal_(0.0, 0.2)
        if moments:
            for parameter in gpt.parameters():
                parameter.grad = torch.randn_like(parameter)
            rule.step()
        averages = {name: p.detach() + 0.1 for name, p in gpt.named_parameters()} if average else None
        folder = tmp_path_factory.mktemp("exported") / "step-00000010"
        progress = {"step": 10, "tokens": 240, "best": {"loss": 3.0, "step": 10}}
        state.save(folder, state.Snapshot(config, tokenizer, progress, state_tensors(gpt, rule, averages)))
        return folder

    return make


@pytest.fixture(scope="session")
def gpt2_checkpoint(checkpoint):
    """The checkpoint that most tests export."""
    return checkpoint(moments=True)


@pytest.fixture(scope="session")
def awkward_texts() -> list[str]:
    """500 texts that tokenizers are known to split differently."""
    rng = random.Random(0)
    texts = [*AWKWARD, "".join(map(chr, range(256)))]
    while len(texts) < 500:
        texts.append("".join(rng.choices(AWKWARD, k=rng.randint(2, 12))))
    return texts


@pytest.fixture
def export_gguf():
    """Export to GGUF; needs the gguf library."""
    return pytest.importorskip("gguf", reason="needs the extra `gguf`")


@pytest.fixture
def byte_tokenizer(tmp_path) -> str:
    ByteTokenizer().save(tmp_path / "byte")
    return str(tmp_path / "byte")
