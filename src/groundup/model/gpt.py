"""GPT: embeddings, a stack of blocks, a final norm, a head.

Letters: B batch, T time, C width (`n_embd`), V vocabulary (`vocab_size`), P padded vocabulary.
"""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.config.model import ModelConfig
from groundup.kernels.cross_entropy import linear_cross_entropy, softcap_and_mask
from groundup.model.blocks import BLOCKS
from groundup.model.context import Causal, Context, SlotCache
from groundup.model.init import INITS
from groundup.model.norms import norm
from groundup.model.positions import POSITIONS

IGNORED = -1  # a target that is not scored
Reduction = Literal["sum", "per_sequence"]


class GPT(nn.Module):
    """Decoder-only transformer (Radford et al. 2018, 2019) over token ids.

    `config.vocab_size` must be set. The token embedding is padded to `config.padded_vocab` rows; padded ids have
    probability zero, so results are those of the unpadded model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if type(self) is GPT and config.model_class != "GPT":
            raise ValueError(f"this config describes an {config.model_class}; use groundup.build_model(config)")
        self.config = config
        block = BLOCKS[config.norm_position]
        self.wte = nn.Embedding(config.padded_vocab, config.n_embd)
        self.wpe = POSITIONS[config.position_embedding](config)
        self.ln_e = norm(config, present=config.embedding_norm)
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.h = nn.ModuleList(block(config, layer) for layer in range(config.n_layer))
        self.ln_f = norm(config, present=not block.ends_normed)
        self.lm_head = nn.Linear(config.n_embd, config.padded_vocab, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.wte.weight
        self.causal = Causal()

    def forward(self, ids: Tensor, context: Context | None = None) -> Tensor:
        """Logits of the next token after each token: (B, T) -> (B, T, V); ValueError when T exceeds `block_size`."""
        return self.head(self.features(ids, context))[..., : self.config.vocab]

    def features(self, ids: Tensor, context: Context | None = None) -> Tensor:
        """Input of the head: (B, T) -> (B, T, C)."""
        context = context or self.causal
        positions = context.positions(ids.size(1), ids.device)  # (T,) or (B, T)
        return self.transform(self.embed(ids, positions), positions, context)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Embeddings of tokens and, where they are learned, of positions: (B, T) -> (B, T, C)."""
        if ids.size(1) > self.config.block_size:
            raise ValueError(f"{ids.size(1)} tokens exceed the context of {self.config.block_size}")
        return self.wpe.add(self.wte(ids), positions)

    def transform(self, x: Tensor, positions: Tensor, context: Context) -> Tensor:
        """All blocks: (B, T, C) -> (B, T, C)."""
        rotation = self.wpe.rotation(positions)
        x = self.drop(self.ln_e(x))
        for block in self.h:
            x = block(x, context, rotation)
        return self.ln_f(x)

    def head(self, x: Tensor) -> Tensor:
        """Logits over the padded vocabulary, padded ids at -inf: (…, C) -> (…, P)."""
        z = F.linear(x, self.head_weight)
        return softcap_and_mask(z, vocab=self.config.vocab, softcap=self.config.logit_softcap)

    @property
    def head_weight(self) -> Tensor:
        """Weight of the head, (P, C)."""
        return self.lm_head.weight

    def loss(self, ids: Tensor, targets: Tensor, reduction: Reduction = "sum") -> Tensor:
        """Cross-entropy of predicting `targets`, in nats: (B, T) and (B, T) -> scalar, or (B,) per sequence."""
        return self.head_loss(self.features(ids), targets, reduction)

    def head_loss(self, x: Tensor, targets: Tensor, reduction: Reduction) -> Tensor:
        """The same from the head's input, without all logits at once: (B, T, C) and (B, T) -> scalar or (B,)."""
        nats = linear_cross_entropy(
            x.flatten(0, 1), self.head_weight, targets.flatten(), vocab=self.config.vocab,
            softcap=self.config.logit_softcap, ignore_index=IGNORED, reduction="sum" if reduction == "sum" else "none",
        )  # fmt: skip
        return nats if reduction == "sum" else nats.view_as(targets).sum(1)

    def new_cache(self, slots: int = 1) -> SlotCache:
        """Empty cache for generating `slots` sequences token by token."""
        return SlotCache(self.config.n_layer, self.config.block_size, slots)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> Self:
        """Draw all weights (`config.init`); norms start at one, biases at zero. Returns itself."""
        std = INITS[self.config.init]
        for name, parameter in self.named_parameters():  # a tied weight comes once
            if not parameter.requires_grad:
                continue  # not learned, so not drawn
            if parameter.dim() >= 2:
                parameter.normal_(0.0, std(name, self.config), generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return self


class NextTokenLoss(nn.Module):
    """Summed cross-entropy of a GPT's next-token predictions, in nats: what training minimises.

    A sum, not a mean, so that micro-batches and processes add up to exactly the loss of the complete batch. With
    `reduction` per_sequence, one sum per sequence, without gradients.
    """

    def __init__(self, gpt: GPT, reduction: Reduction = "sum") -> None:
        super().__init__()
        self.gpt, self.reduction = gpt, reduction

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T) and (B, T) -> scalar or (B,); targets equal to `IGNORED` are not scored."""
        return self.gpt.loss(ids, targets, self.reduction)
