"""Text augmentation: hide some of the tokens."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Generator

from training.material import Augment, Inputs

MASK = "[MASK]"
SPECIAL = ("[PAD]", "[CLS]", "[SEP]")


def hide_tokens(tokenizer: Path, share: float) -> Augment:
    """An augmentation that replaces a share of the tokens by BERT's mask.

    For inputs of which the first is input_ids, int64[n, length].
    """
    read = Tokenizer.from_file(str(tokenizer)).token_to_id
    mask, *special = (read(token) for token in (MASK, *SPECIAL))
    assert mask is not None
    spared = torch.tensor(special)

    def vary(inputs: Inputs, random: Generator) -> Inputs:
        ids, *others = inputs
        chosen = torch.rand(ids.shape, generator=random) < share
        return (ids.masked_fill(chosen & ~torch.isin(ids, spared), mask), *others)

    return vary
