"""Published original names -> the names of diffusers, for handing one set of weights to both sides."""

from __future__ import annotations

import re

_DIT_PREFIXES = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_DIT_PARTS = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",
    "self_attn": "attn1",
    "cross_attn": "attn2",
    "norm_k_img": "norm_added_k",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
}


def dit_name(name: str) -> str:
    for prefix, replacement in _DIT_PREFIXES.items():
        if name == prefix or name.startswith(prefix + "."):
            return replacement + name[len(prefix) :]
    name = ".".join(_DIT_PARTS.get(part, part) for part in name.split("."))
    return name.replace("ffn.0.", "ffn.net.0.proj.").replace("ffn.2.", "ffn.net.2.")


def vae_name(name: str) -> str:
    name = re.sub(r"^conv1\.", "quant_conv.", name)
    name = re.sub(r"^conv2\.", "post_quant_conv.", name)
    name = re.sub(r"^(en|de)coder\.conv1\.", r"\1coder.conv_in.", name)
    name = name.replace(".head.0.", ".norm_out.").replace(".head.2.", ".conv_out.")
    name = re.sub(r"\.middle\.1\.", ".mid_block.attentions.0.", name)
    name = re.sub(r"\.middle\.([02])\.", lambda m: f".mid_block.resnets.{int(m[1]) // 2}.", name)
    name = name.replace("encoder.downsamples.", "encoder.down_blocks.")

    def up_block(match: re.Match[str]) -> str:
        stage, layer = divmod(int(match[1]), 4)
        return f".up_blocks.{stage}." + (f"resnets.{layer}." if layer < 3 else "upsamplers.0.")

    name = re.sub(r"\.upsamples\.(\d+)\.", up_block, name)
    for part, replacement in (
        ("residual.0.", "norm1."),
        ("residual.2.", "conv1."),
        ("residual.3.", "norm2."),
        ("residual.6.", "conv2."),
        ("shortcut.", "conv_shortcut."),
    ):
        name = name.replace(part, replacement)
    return name
