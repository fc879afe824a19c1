"""UMT5: names and trimming, against transformers' own padded and masked forward pass.

fp32, 1e-5 relative: trimming changes no arithmetic, only the order of sums (seen: 4e-7).
"""

from __future__ import annotations

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from engine.models.text_encoders.t5 import (
    UMT5,
    build,
    config_from_shapes,
    to_huggingface_name,
    to_original_name,
)
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
    shapes = {name: tuple(p.shape) for name, p in reference.named_parameters()}
    ours = build(config_from_shapes(shapes))
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


def test_names_are_a_bijection(reference: UMT5EncoderModel) -> None:
    names = [name for name, _ in reference.named_parameters() if "embed_tokens" not in name]
    originals = [to_original_name(name) for name in names]
    assert len(set(originals)) == len(names)
    assert [to_huggingface_name(name) for name in originals] == names
    assert "blocks.2.pos_embedding.embedding.weight" in originals
    assert "token_embedding.weight" in originals
    assert not set(originals) & set(names)


@pytest.mark.parametrize("rename", [to_original_name, lambda name: name])
def test_config_from_shapes_of_either_naming(reference: UMT5EncoderModel, rename) -> None:
    shapes = {rename(name): tuple(p.shape) for name, p in reference.named_parameters()}
    config = config_from_shapes(shapes)
    for field in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
        assert getattr(config, field) == getattr(CONFIG, field)
    assert config.relative_attention_num_buckets == 32
    assert config.relative_attention_max_distance == 128
    assert config.layer_norm_epsilon == 1e-6
    assert (config.is_gated_act, config.dense_act_fn) == (True, "gelu_new")


def test_a_file_that_is_no_encoder_is_named_so() -> None:
    with pytest.raises(ValueError, match=r"not a UMT5 encoder: it has no tensor shared\.weight"):
        config_from_shapes({"patch_embedding.weight": (4, 4)})


def test_published_size() -> None:
    config = UMT5Config(
        vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = build(config)
    names = dict(model.named_parameters())
    assert sum(p.numel() for p in names.values()) == 5_680_910_336
    assert len(names) == 242
