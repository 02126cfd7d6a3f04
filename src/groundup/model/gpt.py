"""GPT: embeddings, a stack of blocks, a head.

Letters: B batch, T time, C width (`n_embd`), V vocabulary (`vocab_size`), P padded vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.config.model import ModelConfig
from groundup.kernels.cross_entropy import linear_cross_entropy, softcap_and_mask
from groundup.model.blocks import BLOCKS
from groundup.model.context import Causal, Context
from groundup.model.init import INITS
from groundup.model.ngram import NGrams, NoNGrams
from groundup.model.norms import norm
from groundup.model.positions import POSITIONS

IGNORED = -1  # a target that is not scored


class GPT(nn.Module):
    """A decoder-only transformer (Radford et al. 2018, 2019) over token ids.

    `config.vocab_size` must be set. The token embedding has `config.padded_vocab` rows; those past the vocabulary
    never win a probability, so results are those of the unpadded model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        block = BLOCKS[config.norm_position]
        self.wte = nn.Embedding(config.padded_vocab, config.n_embd)
        self.wpe = POSITIONS[config.position_embedding](config)
        self.ngrams = NGrams(config) if config.ngram > 1 else NoNGrams()
        self.ln_e = norm(config, present=config.embedding_norm)
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.h = nn.ModuleList(block(config, layer) for layer in range(config.n_layer))
        self.ln_f = norm(config, present=not block.ends_normed)
        self.lm_head = nn.Linear(config.n_embd, config.padded_vocab, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.wte.weight
        self.causal = Causal()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> GPT:
        """Draw all weights anew (`config.init`); norms start at one, biases at zero. Returns itself."""
        std = INITS[self.config.init]
        for name, parameter in self.named_parameters():  # a tied weight comes once
            if not parameter.requires_grad:
                continue  # counted, not drawn
            if parameter.dim() >= 2:
                parameter.normal_(0.0, std(name, self.config), generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        self.ngrams.draw(generator)
        return self

    def forward(self, ids: Tensor, context: Context | None = None) -> Tensor:
        """Logits of the next token after each token: (B, T) -> (B, T, V); ValueError when T exceeds `block_size`."""
        return self.head(self.features(ids, context))[..., : self.config.vocab]

    def features(self, ids: Tensor, context: Context | None = None, targets: Tensor | None = None) -> Tensor:
        """What the head reads: (B, T) -> (B, T, C), with n-grams that speak for themselves (B, T, C + V).

        `targets` (B, T) concern n-grams alone, which leave them out.
        """
        context = context or self.causal
        if ids.size(1) > self.config.block_size:
            raise ValueError(f"{ids.size(1)} tokens exceed the context of {self.config.block_size}")
        positions = context.positions(ids.size(1), ids.device)
        x, shares = self.ngrams.add(self.wpe.add(self.wte(ids), positions), ids, context, targets)
        x = self.drop(self.ln_e(x))  # (B, T, C)
        rotate = self.wpe.rotation(positions)
        for block in self.h:
            x = block(x, context, rotate)
        return self.ngrams.beside(self.ln_f(x), shares)

    @property
    def reading(self) -> Tensor:
        """The head's weights: (P, C), or (P, C + V)."""
        return self.ngrams.widened(self.lm_head.weight)

    def head(self, x: Tensor) -> Tensor:
        """Logits over the padded vocabulary, pads at -inf: (…, C) -> (…, P)."""
        return softcap_and_mask(F.linear(x, self.reading), vocab=self.config.vocab, softcap=self.config.logit_softcap)


class NextTokenLoss(nn.Module):
    """Summed cross-entropy of a GPT's next-token predictions, in nats: what training minimises.

    A sum, not a mean, so that micro-batches and processes add up to exactly the loss of the whole batch.
    """

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T) and (B, T) -> scalar; targets equal to `IGNORED` are not scored."""
        gpt, x = self.gpt, self.gpt.features(ids, targets=targets).flatten(0, 1)  # (B·T, C)
        vocab, softcap = gpt.config.vocab, gpt.config.logit_softcap
        return linear_cross_entropy(
            x, gpt.reading, targets.flatten(), vocab=vocab, softcap=softcap, ignore_index=IGNORED
        )
