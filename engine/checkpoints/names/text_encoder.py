"""UMT5: original, Hugging Face (also ComfyUI) and llama.cpp (GGUF).

Source: Wan 2.1, `wan/modules/t5.py`; transformers, `modeling_umt5.py`; ComfyUI-GGUF, `loader.py`.
"""

from __future__ import annotations

from engine.checkpoints.names.templates import naming

# original, Hugging Face, llama.cpp
_TOP = (
    ("token_embedding.weight", "shared.weight", "token_embd.weight"),
    ("norm.weight", "encoder.final_layer_norm.weight", "enc.output_norm.weight"),
)
_BLOCK = (
    ("norm1", "layer.0.layer_norm", "attn_norm"),
    *((f"attn.{x}", f"layer.0.SelfAttention.{x}", f"attn_{x}") for x in "qkvo"),
    ("pos_embedding.embedding", "layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
    ("norm2", "layer.1.layer_norm", "ffn_norm"),
    ("ffn.gate.0", "layer.1.DenseReluDense.wi_0", "ffn_gate"),
    ("ffn.fc1", "layer.1.DenseReluDense.wi_1", "ffn_up"),
    ("ffn.fc2", "layer.1.DenseReluDense.wo", "ffn_down"),
)
_TABLE = (
    *_TOP,
    *(
        (f"blocks.{{i}}.{a}.weight", f"encoder.block.{{i}}.{b}.weight", f"enc.blk.{{i}}.{c}.weight")
        for a, b, c in _BLOCK
    ),
)

NAMINGS = {
    "original": naming((original, original) for original, _, _ in _TABLE),
    "huggingface": naming(
        ((original, theirs) for original, theirs, _ in _TABLE),
        # a copy of the embedding; the SentencePiece file in ComfyUI's; the other half of a whole UMT5
        unused=[
            r"encoder\.embed_tokens\.weight",
            "spiece_model",
            r"decoder\..+",
            r"lm_head\.weight",
        ],
    ),
    "llama.cpp": naming(
        ((original, theirs) for original, _, theirs in _TABLE),
        unused=[r"dec\..+", r"output\.weight"],
    ),
}
