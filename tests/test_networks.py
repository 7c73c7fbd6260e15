"""Networks: their shapes, and that an answer depends on its own input alone.

The weights are random here: what is said must hold for any.
"""

import pytest
import torch
from torch import Tensor

from training.networks import minilm
from training.networks.efficientnet import LITE2, EfficientNetLite, SameConv
from training.networks.efficientnet import rename_weights as rename_efficientnet


@pytest.fixture(scope="module")
def text_encoder() -> minilm.MiniLM:
    torch.manual_seed(1)
    return minilm.MiniLM().eval()


@pytest.fixture(scope="module")
def image_encoder() -> EfficientNetLite:
    torch.manual_seed(1)
    return EfficientNetLite().eval()


def tokens(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random ids, padded with 0 to the longest: int64[N, L] and its mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, 30_000, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


@torch.inference_mode()
def test_a_picture_gives_a_thousand_scores_and_a_vector(image_encoder: EfficientNetLite) -> None:
    logits, vector = image_encoder(torch.zeros(2, 224, 224, 3, dtype=torch.uint8))
    assert (logits.shape, vector.shape) == ((2, 1000), (2, 1280))
    assert logits.dtype == vector.dtype == torch.float32


@torch.inference_mode()
def test_the_image_vector_is_what_the_scores_are_computed_from(
    image_encoder: EfficientNetLite,
) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 224, 224, 3), generator=generator, dtype=torch.uint8)
    logits, vector = image_encoder(pixels)
    torch.testing.assert_close(image_encoder.fc(vector), logits)
    assert not torch.equal(vector[0], vector[1])


@torch.inference_mode()
def test_a_larger_variant_meets_odd_sizes_and_gives_a_vector_as_wide() -> None:
    network = EfficientNetLite(LITE2).eval()
    _, vector = network(torch.zeros(1, 260, 260, 3, dtype=torch.uint8))
    assert vector.shape == (1, 1280)


@pytest.mark.parametrize(
    ("kernel", "size", "first", "last"), [(3, 8, 0, 1), (5, 8, 1, 2), (3, 9, 1, 1), (5, 9, 2, 2)]
)
def test_a_stride_of_two_pads_right_and_below(
    kernel: int, size: int, first: int, last: int
) -> None:
    padding = SameConv(1, 1, kernel, stride=2, size=size).pad.padding
    assert padding == (first, last, first, last)


def test_published_names_lose_their_underscores() -> None:
    one = torch.ones(1)
    published = {"_bn0.bias": one, "_blocks.0._bn1.running_mean": one}
    assert set(rename_efficientnet(published)) == {"bn0.bias", "blocks.0.bn1.running_mean"}


@torch.inference_mode()
def test_a_text_gives_a_vector_of_length_one(text_encoder: minilm.MiniLM) -> None:
    vector = text_encoder(*tokens(3, 7))
    assert vector.shape == (2, 384)
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(2))


@torch.inference_mode()
def test_a_padded_text_gives_the_same_vector_as_alone(text_encoder: minilm.MiniLM) -> None:
    lengths = (1, 4, 9, 256)
    ids, mask = tokens(*lengths)
    together = text_encoder(ids, mask)
    for row, length in enumerate(lengths):
        alone = text_encoder(ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_what_stands_in_the_padding_does_not_matter(text_encoder: minilm.MiniLM) -> None:
    ids, mask = tokens(3, 8)
    other = torch.where(mask == 1, ids, 4711)
    assert torch.equal(text_encoder(ids, mask), text_encoder(other, mask))
    changed = ids.clone()
    changed[0, 2] = 4711  # a real token does matter
    assert not torch.allclose(text_encoder(ids, mask)[0], text_encoder(changed, mask)[0])


@torch.inference_mode()
def test_the_order_of_tokens_matters(text_encoder: minilm.MiniLM) -> None:
    ids, mask = tokens(6)
    assert not torch.allclose(text_encoder(ids, mask), text_encoder(ids.flip(1), mask))


@torch.inference_mode()
def test_a_row_of_nothing_but_padding_is_still_a_number(text_encoder: minilm.MiniLM) -> None:
    ids, mask = tokens(5, 5)
    mask[1] = 0
    assert text_encoder(ids, mask).isfinite().all()
