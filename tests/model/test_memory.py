"""Memory estimates against the tensors that torch keeps for the backward pass."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groundup.config.model import ModelConfig
from groundup.distributed.activation_checkpointing import apply_activation_checkpointing
from groundup.kernels import cross_entropy, thresholds
from groundup.kernels.cpu_build import library
from groundup.model import build_model
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import NextTokenLoss
from groundup.model.memory import activation_bytes, loss_bytes, weight_copy_bytes
from groundup.utils.device import autocast

NANOCHAT = {
    "norm": "rmsnorm", "position_embedding": "rotary", "qk_norm": "after_rotary", "embedding_norm": True,
    "activation": "relu2", "bias": False, "tie_embeddings": False, "logit_softcap": 15.0,
}  # fmt: skip
MODERN = {
    "norm": "rmsnorm_scaled", "position_embedding": "rotary_ccw", "qk_norm": "before_rotary", "activation": "swiglu",
    "bias": False, "tie_embeddings": False,
}  # fmt: skip
ROWS = 4


def kept_bytes(config: ModelConfig, precision: str, *, recompute: str = "none", fused: bool = False) -> int:
    """Bytes of all storages that autograd saves, without the model's parameters and constants.

    The formulas are those of torch's own operations; fused kernels keep less.
    """
    gpt = build_model(config).init_weights()
    if fused:
        use_fused_cpu_kernels(gpt)
    apply_activation_checkpointing(gpt, recompute)
    own = {t.untyped_storage().data_ptr() for t in (*gpt.parameters(), *gpt.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t  # held, so that no memory is used twice
        return t

    ids = torch.randint(config.vocab, (ROWS, config.block_size))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), autocast(precision, torch.device("cpu"))():
        NextTokenLoss(gpt)(ids, ids)
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "parts",
    [
        {}, {"norm_position": "post_norm"}, {"activation": "relu"}, {"activation": "relu2"}, {"norm": "rmsnorm"},
        {"position_embedding": "rotary"}, {"embedding_norm": True}, {"logit_softcap": 15.0}, {"n_inner": 100},
        {"dropout": 0.1},
        {"dropout": 0.1, "norm_position": "post_norm"}, {"qk_norm": "after_rotary", "norm": "rmsnorm"},
        NANOCHAT, MODERN, {"activation": "swiglu"}, {"norm": "rmsnorm_scaled"},
        {"norm": "rmsnorm_scaled", "norm_position": "post_norm"},
        {"qk_norm": "before_rotary", "norm": "rmsnorm", "position_embedding": "rotary"},
        {"ngram": 4, "ngram_rows": 1000}, {"ngram": 3, "ngram_rows": 1000, "ngram_width": 1000},
    ],
    ids=lambda parts: "-".join(map(str, parts)) or "gpt2",
)  # fmt: skip
@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_activation_bytes_are_what_autograd_keeps(recompute, parts, precision):
    config = ModelConfig(**{"n_layer": 3, "n_head": 2, "n_embd": 128, "block_size": 128, "vocab_size": 256} | parts)
    kept = kept_bytes(config, precision, recompute=recompute)
    assert planned_bytes(config, precision, recompute) == pytest.approx(kept, rel=0.04)


@pytest.mark.skipif(library() is None, reason="nothing was compiled here")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fused_kernels_keep_less(precision):
    config = ModelConfig(n_layer=3, n_head=2, n_embd=128, block_size=128, vocab_size=256, **NANOCHAT)
    assert kept_bytes(config, precision, fused=True) < kept_bytes(config, precision)


def planned_bytes(config: ModelConfig, precision: str, recompute: str = "none") -> float:
    e = 4 if precision == "fp32" else 2
    kept_logits = config.padded_vocab * (4 + (e if config.logit_softcap else 0))
    planned = (activation_bytes(config, precision, recompute=recompute) + kept_logits) * ROWS * config.block_size
    planned += weight_copy_bytes(config, precision)
    if recompute == "selective" and precision != "fp32":  # recomputed products cast their weights again
        reads = 2 if config.norm_position == "pre_norm" and not config.is_gated else 1
        products = reads * config.inner * config.n_embd
        products += 3 * config.n_embd**2 if config.norm_position == "pre_norm" else 0
        planned -= e * config.n_layer * products
    return planned


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("parts", [{}, NANOCHAT, MODERN], ids=["gpt2", "nanochat", "modern"])
def test_chunked_loss_keeps_two_gradients_instead_of_logits_and_the_input_of_the_head(parts, precision, monkeypatch):
    monkeypatch.setattr(thresholds, "MAX_UNCHUNKED_BYTES", 0)
    config = ModelConfig(**{"n_layer": 2, "n_head": 2, "n_embd": 128, "block_size": 128, "vocab_size": 256} | parts)
    e, tokens, head = 4 if precision == "fp32" else 2, ROWS * config.block_size, config.padded_vocab * config.n_embd
    planned = activation_bytes(config, precision) * tokens + weight_copy_bytes(config, precision)
    planned += (4 - e) * config.n_embd * tokens + 4 * head - (e * head if e == 2 else 0)
    assert planned == pytest.approx(kept_bytes(config, precision), rel=0.03)


class Peak(TorchDispatchMode):
    """Peak bytes of new tensors."""

    def __init__(self, *given):
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for tensor in given}
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "groundup":  # look inside the operator
            with self:
                return cross_entropy._summed(*args)
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        old = {key for key, (storage, _) in self.alive.items() if storage.expired()} | self.given
        self.alive = {key: value for key, value in self.alive.items() if key not in old}
        self.most = max(self.most, sum(nbytes for _, nbytes in self.alive.values()))
        return found


@pytest.mark.parametrize("columns", [64, 2048])  # with few, what a chunk gives the head is more than the chunk
@pytest.mark.parametrize("softcap", [None, 15.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_bytes_are_the_peak_of_the_loss(precision, softcap, columns, monkeypatch):
    for name, value in {
        "MAX_UNCHUNKED_BYTES": 0,
        "CPU_CHUNK_BYTES": 0,
        "GPU_CHUNK_BYTES": 0,
        "MIN_CHUNK_ROWS": 100,
    }.items():
        monkeypatch.setattr(thresholds, name, value)
    config = ModelConfig(n_embd=columns // 2, n_head=2, block_size=128, vocab_size=1024, logit_softcap=softcap)
    x, weight = torch.randn(250, config.n_embd), torch.randn(1024, config.n_embd)
    with Peak(x, weight) as peak, autocast(precision, torch.device("cpu"))():
        loss = cross_entropy.linear_cross_entropy(
            x.requires_grad_(),
            weight.requires_grad_(),
            torch.zeros(250, dtype=torch.int64),
            vocab=1000,
            softcap=softcap,
        )
    del loss
    copies = 2 * (x.numel() + weight.numel()) if precision == "bf16" else 0  # counted with activations and weights
    assert loss_bytes(config, precision, 250) + copies == pytest.approx(peak.most, rel=0.03)
    assert loss_bytes(config, precision, 250, "cuda") <= loss_bytes(config, precision, 250)


@pytest.mark.parametrize(
    "parts", [{}, {"dropout": 0.1}, NANOCHAT, MODERN], ids=["gpt2", "dropout", "nanochat", "modern"]
)
def test_fp16_keeps_what_bf16_keeps(parts):
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 64}  # small: CPUs emulate fp16
    config = ModelConfig(**shape | parts)
    assert weight_copy_bytes(config, "fp16") == weight_copy_bytes(config, "bf16") > 0
    assert planned_bytes(config, "fp16") == pytest.approx(kept_bytes(config, "fp16"), rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "parts",
    [{}, {"norm_position": "post_norm"}, {"embedding_norm": True}, {"dropout": 0.1}, NANOCHAT, MODERN],
    ids=lambda parts: "-".join(map(str, parts)) or "gpt2",
)
def test_recomputed_blocks_keep_their_inputs_and_one_block_is_complete_at_a_time(parts, precision):
    def config(n_layer: int) -> ModelConfig:
        return ModelConfig(
            **{"n_head": 2, "n_embd": 128, "block_size": 128, "vocab_size": 64, **parts, "n_layer": n_layer}
        )

    def planned(n_layer: int, recompute: str) -> int:
        return activation_bytes(config(n_layer), precision, recompute=recompute) * ROWS * config(n_layer).block_size

    weights = weight_copy_bytes(config(2), precision) - weight_copy_bytes(config(1), precision)
    a_block = kept_bytes(config(2), precision) - kept_bytes(config(1), precision) - weights
    two, three = (kept_bytes(config(n), precision, recompute="full") for n in (2, 3))
    an_input = three - two
    assert an_input < a_block / 8
    assert planned(3, "full") - planned(2, "full") == pytest.approx(an_input, rel=0.03)
    assert planned(3, "full") - planned(3, "none") == pytest.approx(3 * an_input - 2 * a_block, rel=0.03)
    ends = three - 3 * an_input
    assert planned(3, "full") == pytest.approx(3 * an_input + a_block + ends, rel=0.2)  # logits are counted elsewhere
