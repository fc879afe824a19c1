"""UMT5: sizes and trimming, against transformers' own padded and masked forward pass.

fp32, 1e-5 relative: trimming changes no arithmetic, only the order of sums (seen: 4e-7).
"""

from __future__ import annotations

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from engine.models.text_encoders.t5 import UMT5, build, config
from tests.parity import randomise, relative_error

CONFIG = UMT5Config(
    vocab_size=96,
    d_model=64,
    d_kv=16,
    d_ff=96,
    num_layers=3,
    num_heads=4,
    dropout_rate=0.0,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    relative_attention_num_buckets=32,
    relative_attention_max_distance=128,
    layer_norm_epsilon=1e-6,
)


@pytest.fixture(scope="module")
def reference() -> UMT5EncoderModel:
    model = UMT5EncoderModel(CONFIG).eval().requires_grad_(False)
    randomise(model, 5)
    return model


def encoder(reference: UMT5EncoderModel, ids: list[int]) -> UMT5:
    ours = build(config(vocab=96, dim=64, ffn=96, layers=3, heads=4, buckets=32, inner=64))
    ours.load_state_dict(reference.state_dict())
    return UMT5(ours, lambda text: ids)


@pytest.mark.parametrize("length", [1, 24, 200, 512])
def test_trimmed_equals_padded_and_masked(reference: UMT5EncoderModel, length: int) -> None:
    ids = torch.randint(2, 96, (length,), generator=torch.Generator().manual_seed(length))
    ids[-1] = 1
    padded = torch.nn.functional.pad(ids, (0, 512 - length))[None]
    mask = (torch.arange(512) < length).long()[None]
    with torch.no_grad():
        expected = reference(input_ids=padded, attention_mask=mask).last_hidden_state[0, :length]
    actual = encoder(reference, ids.tolist()).encode("anything")
    assert actual.shape == (length, 64)
    assert relative_error(actual, expected) < 1e-5


def test_config_is_of_the_published_kind() -> None:
    ours = config(vocab=96, dim=64, ffn=96, layers=3, heads=4, buckets=32, inner=64)
    for field in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
        assert getattr(ours, field) == getattr(CONFIG, field)
    assert ours.relative_attention_num_buckets == 32
    assert ours.relative_attention_max_distance == 128
    assert ours.layer_norm_epsilon == 1e-6
    assert (ours.is_gated_act, ours.dense_act_fn) == (True, "gelu_new")


def test_published_size() -> None:
    published = config(
        vocab=256384, dim=4096, ffn=10240, layers=24, heads=64, buckets=32, inner=4096
    )
    with torch.device("meta"):
        model = build(published)
    names = dict(model.named_parameters())
    assert sum(p.numel() for p in names.values()) == 5_680_910_336
    assert len(names) == 242
