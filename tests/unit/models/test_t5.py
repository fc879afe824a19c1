"""UMT5 against transformers': the same bits without padding, and near its padded and masked forward pass.

fp32, 1e-5 relative: trimming changes no arithmetic, only the order of sums (seen: 4e-7).
"""

from __future__ import annotations

import copy

import pytest
import torch

from engine.checkpoints.names import from_original
from engine.models.text_encoders.t5 import UMT5, UMT5Config, build
from tests.oracles.later import transformers
from tests.oracles.parity import randomise, relative_error

SIZES = UMT5Config(vocab=96, dim=64, ffn=96, layers=3, heads=4, buckets=32, inner=64)
CONFIG = {
    "vocab_size": 96,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 3,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}


@pytest.fixture(scope="module")
def reference() -> transformers.UMT5EncoderModel:
    model = (
        transformers.UMT5EncoderModel(transformers.UMT5Config(**CONFIG))
        .eval()
        .requires_grad_(False)
    )
    randomise(model, 5)
    return model


def encoder(reference: transformers.UMT5EncoderModel, ids: list[int]) -> UMT5:
    ours = build(SIZES).to(reference.dtype)
    theirs = reference.state_dict()
    names = {
        name: from_original("text_encoder", "huggingface", name)[0] for name in ours.state_dict()
    }
    ours.load_state_dict({name: theirs[other] for name, other in names.items()})
    return UMT5(ours, lambda text: ids)


def ids_of(length: int) -> torch.Tensor:
    ids = torch.randint(2, 96, (length,), generator=torch.Generator().manual_seed(length))
    ids[-1] = 1
    return ids


@pytest.mark.parametrize("length", [1, 24, 200, 512])
def test_trimmed_equals_padded_and_masked(
    reference: transformers.UMT5EncoderModel, length: int
) -> None:
    ids = ids_of(length)
    padded = torch.nn.functional.pad(ids, (0, 512 - length))[None]
    mask = (torch.arange(512) < length).long()[None]
    with torch.no_grad():
        expected = reference(input_ids=padded, attention_mask=mask).last_hidden_state[0, :length]
    actual = encoder(reference, ids.tolist()).encode("anything")
    assert actual.shape == (length, 64)
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 24, 200])
def test_without_padding_the_bits_are_theirs(
    reference: transformers.UMT5EncoderModel, dtype: torch.dtype, length: int
) -> None:
    theirs = copy.deepcopy(reference).to(dtype)
    ids = ids_of(length)
    with torch.no_grad():
        expected = theirs(input_ids=ids[None]).last_hidden_state[0]
    assert torch.equal(encoder(theirs, ids.tolist()).encode("anything"), expected)


def test_infinities_of_fp16_are_clamped_as_theirs(reference: transformers.UMT5EncoderModel) -> None:
    theirs = copy.deepcopy(reference).to(torch.float16)
    theirs.encoder.block[0].layer[1].DenseReluDense.wo.weight.mul_(5e4)
    ids = ids_of(24)
    with torch.no_grad():
        expected = theirs(input_ids=ids[None]).last_hidden_state[0]
    assert torch.equal(encoder(theirs, ids.tolist()).encode("anything"), expected)


def test_published_size() -> None:
    published = UMT5Config(
        vocab=256384, dim=4096, ffn=10240, layers=24, heads=64, buckets=32, inner=4096
    )
    with torch.device("meta"):
        model = build(published)
    names = dict(model.named_parameters())
    assert sum(p.numel() for p in names.values()) == 5_680_910_336
    assert len(names) == 242
