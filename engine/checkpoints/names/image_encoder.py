"""The image tower of CLIP ViT-H/14: original and Hugging Face (also ComfyUI).

Hugging Face keeps queries, keys and values apart that the original has stacked in one matrix, and has the class
token and the positions without leading axes of one.
Source: Wan 2.1, `wan/modules/clip.py`; transformers, `modeling_clip.py`.
"""

from __future__ import annotations

from engine.checkpoints.names.templates import Templates, naming

_TOP = (
    ("visual.cls_embedding", "embeddings.class_embedding"),
    ("visual.pos_embedding", "embeddings.position_embedding.weight"),
    ("visual.patch_embedding.weight", "embeddings.patch_embedding.weight"),
    ("visual.pre_norm.{p}", "pre_layrnorm.{p}"),  # spelt so by transformers
    ("visual.post_norm.{p}", "post_layernorm.{p}"),
)
_BLOCK = (
    ("norm1.{p}", "layer_norm1.{p}"),
    ("attn.to_qkv.{p}", ("self_attn.q_proj.{p}", "self_attn.k_proj.{p}", "self_attn.v_proj.{p}")),
    ("attn.proj.{p}", "self_attn.out_proj.{p}"),
    ("norm2.{p}", "layer_norm2.{p}"),
    ("mlp.0.{p}", "mlp.fc1.{p}"),
    ("mlp.2.{p}", "mlp.fc2.{p}"),
)
_TOWER = "vision_model."
_PAIRS: tuple[tuple[str, Templates], ...] = (
    *((original, f"{_TOWER}{theirs}") for original, theirs in _TOP),
    *(
        (
            f"visual.transformer.{{i}}.{original}",
            tuple(
                f"{_TOWER}encoder.layers.{{i}}.{part}"
                for part in ((theirs,) if isinstance(theirs, str) else theirs)
            ),
        )
        for original, theirs in _BLOCK
    ),
)

NAMINGS = {
    "original": naming(
        ((original, original) for original, _ in _PAIRS),
        unused=[r"textual\..+", "log_scale", r"visual\.head"],
    ),
    "huggingface": naming(
        _PAIRS,
        # the text tower and what joins the two, in files of a whole CLIP; a counter that older versions saved
        unused=[
            r"text_model\..+", r"text_projection\.weight", r"visual_projection\.weight", "logit_scale",
            r"(vision_model\.)?embeddings\.position_ids",
        ],
        optional_prefix=_TOWER,
    ),
}  # fmt: skip
