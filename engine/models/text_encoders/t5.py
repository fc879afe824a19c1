"""UMT5, the text encoder of Wan: transformers' `UMT5EncoderModel`, trimmed.

Only the real tokens run. In the published pipeline prompts are padded to 512 tokens, masked inside the
encoder and cut back to the real ones afterwards; a masked key has softmax weight exactly zero, so leaving
the padding out changes nothing but the time (8 to 17 times less).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.models.umt5.configuration_umt5 import UMT5Config
from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

EOS_ID = 1


def config(
    *, vocab: int, dim: int, ffn: int, layers: int, heads: int, buckets: int, inner: int
) -> UMT5Config:
    """The configuration of an encoder of these sizes; inner: width of all attention heads together."""
    return UMT5Config(
        vocab_size=vocab,
        d_model=dim,
        d_kv=inner // heads,
        d_ff=ffn,
        num_layers=layers,
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=EOS_ID,
        tie_word_embeddings=False,
    )


def build(config: UMT5Config) -> UMT5EncoderModel:
    """The encoder on the current default device, not yet filled (use under `torch.device("meta")`)."""
    model = UMT5EncoderModel(config)
    # one table under one name: the published files hold it once
    model.encoder.embed_tokens = model.shared
    return model.eval().requires_grad_(False)


class UMT5:
    """Prompt -> token states. tokenize: prompt -> token ids, cleaned and cut as published."""

    def __init__(self, model: UMT5EncoderModel, tokenize: Callable[[str], Sequence[int]]) -> None:
        self.model = model
        self.tokenize = tokenize

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """prompt -> [L, d_model] in the model's dtype and on its device, one row a real token, the
        end-of-sequence token included; 1 <= L <= 512."""
        ids = torch.tensor([self.tokenize(prompt)], device=self.model.device)
        return self.model(input_ids=ids).last_hidden_state[0]
