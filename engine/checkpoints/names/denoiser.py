"""The diffusion transformer: original (also ComfyUI, Kijai and GGUF) and diffusers.

Beware: the original's affine `norm3` is diffusers' `norm2`.
Source: Wan 2.1, `wan/modules/model.py` and `vace_model.py`; diffusers, `transformer_wan.py`, `transformer_wan_vace.py`.
"""

from __future__ import annotations

from engine.checkpoints.names.templates import naming

_TOP = (
    ("patch_embedding.{p}", "patch_embedding.{p}"),
    ("text_embedding.0.{p}", "condition_embedder.text_embedder.linear_1.{p}"),
    ("text_embedding.2.{p}", "condition_embedder.text_embedder.linear_2.{p}"),
    ("time_embedding.0.{p}", "condition_embedder.time_embedder.linear_1.{p}"),
    ("time_embedding.2.{p}", "condition_embedder.time_embedder.linear_2.{p}"),
    ("time_projection.1.{p}", "condition_embedder.time_proj.{p}"),
    ("img_emb.proj.0.{p}", "condition_embedder.image_embedder.norm1.{p}"),
    ("img_emb.proj.1.{p}", "condition_embedder.image_embedder.ff.net.0.proj.{p}"),
    ("img_emb.proj.3.{p}", "condition_embedder.image_embedder.ff.net.2.{p}"),
    ("img_emb.proj.4.{p}", "condition_embedder.image_embedder.norm2.{p}"),
    ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    ("head.head.{p}", "proj_out.{p}"),
    ("head.modulation", "scale_shift_table"),
    ("vace_patch_embedding.{p}", "vace_patch_embedding.{p}"),
    ("vace_blocks.{i}.before_proj.{p}", "vace_blocks.{i}.proj_in.{p}"),
    ("vace_blocks.{i}.after_proj.{p}", "vace_blocks.{i}.proj_out.{p}"),
)

_BLOCK = (
    ("modulation", "scale_shift_table"),
    ("norm3.{p}", "norm2.{p}"),
    *((f"self_attn.{x}.{{p}}", f"attn1.to_{x}.{{p}}") for x in "qkv"),
    ("self_attn.o.{p}", "attn1.to_out.0.{p}"),
    *((f"self_attn.norm_{x}.weight", f"attn1.norm_{x}.weight") for x in "qk"),
    *((f"cross_attn.{x}.{{p}}", f"attn2.to_{x}.{{p}}") for x in "qkv"),
    ("cross_attn.o.{p}", "attn2.to_out.0.{p}"),
    *((f"cross_attn.norm_{x}.weight", f"attn2.norm_{x}.weight") for x in "qk"),
    *((f"cross_attn.{x}_img.{{p}}", f"attn2.add_{x}_proj.{{p}}") for x in "kv"),
    ("cross_attn.norm_k_img.weight", "attn2.norm_added_k.weight"),
    ("ffn.0.{p}", "ffn.net.0.proj.{p}"),
    ("ffn.2.{p}", "ffn.net.2.{p}"),
)

_PAIRS = (
    *_TOP,
    *(
        (f"{stack}.{{i}}.{original}", f"{stack}.{{i}}.{theirs}")
        for stack in ("blocks", "vace_blocks")
        for original, theirs in _BLOCK
    ),
)

NAMINGS = {
    "original": naming((original, original) for original, _ in _PAIRS),
    "diffusers": naming(_PAIRS, unused=[r"blocks\.[0-9]+\.attn2\.norm_added_q\.weight"]),
}
