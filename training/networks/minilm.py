"""MiniLM-L6: token ids become one vector of length 1 that stands for what the text means.

The encoder is BERT's (Devlin et al., 2018) with 6 layers and 384 channels, distilled as Wang et
al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", 2020; its mean over the tokens is the vector, after Reimers and Gurevych,
"Sentence-BERT", 2019.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 30_522
POSITIONS = 512
WIDTH = 384
LAYERS = 6
HEADS = 12
INNER = 4 * WIDTH
EPSILON = 1e-12  # BERT's, of its LayerNorms
DROPOUT = 0.1  # BERT's as well; of no effect but in finetuning

# Far below any score, yet finite: a softmax over nothing but padding is not 0 / 0.
HIDDEN = -1e4

PUBLISHED_NAMES = {
    "embeddings.word_embeddings": "tokens",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "encoder.layer": "layers",
    "attention.self.": "",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "narrowed_norm",
}
NOT_USED = ("pooler.", "embeddings.position_ids")


class MiniLM(nn.Module):
    """input_ids, attention_mask int64[N, L] -> vector float32[N, 384], L at most 512.

    The mask is 1 for a token and 0 for padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.types = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        length = input_ids.shape[1]
        # Single sentences are all of type 0, so that no input says so.
        where = self.positions.weight[:length] + self.types.weight[0]  # [L, 384]
        x = self.dropout(self.norm(self.tokens(input_ids) + where))  # [N, L, 384]
        mask = attention_mask.to(x.dtype)
        bias = (1 - mask)[:, None, None, :] * HIDDEN  # [N, 1, 1, L]
        for layer in self.layers:
            x = layer(x, bias)
        counted = mask[:, :, None]
        mean = (x * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return functional.normalize(mean, dim=1)

    def stages(self) -> list[list[nn.Parameter]]:
        """Its parameters in the order in which a text passes them."""
        embedding = (self.tokens, self.positions, self.types, self.norm)
        return [
            [weights for part in embedding for weights in part.parameters()],
            *([*layer.parameters()] for layer in self.layers),
        ]


class Layer(nn.Module):
    """Tokens look at one another, then each by itself passes through two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.attended_norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.widen = nn.Linear(WIDTH, INNER)
        self.narrow = nn.Linear(INNER, WIDTH)
        self.narrowed_norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (split(part(x)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS) + bias  # [N, 12, L, L]
        seen = self.dropout(torch.softmax(scores, dim=-1)) @ value  # [N, 12, L, 32]
        attended = self.attended(seen.transpose(1, 2).flatten(2))
        x = self.attended_norm(x + self.dropout(attended))
        inner: Tensor = functional.gelu(self.widen(x))
        out: Tensor = self.narrowed_norm(x + self.dropout(self.narrow(inner)))
        return out


def split(x: Tensor) -> Tensor:
    """Channels into heads: [N, L, 384] -> [N, 12, L, 32]."""
    return x.reshape(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)


def rename_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published names as this file has them; what sentence vectors do not use is left out."""
    renamed = {}
    for name, tensor in published.items():
        if name.startswith(NOT_USED):
            continue
        for theirs, ours in PUBLISHED_NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    return renamed
