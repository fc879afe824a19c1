"""The autoencoders of Wan 2.1 and 2.2: original and diffusers.

The original 2.1 decoder is one flat list of layers, three blocks and an upsampling for each of its four stages;
2.2 nests its lists. diffusers nests both, and `decoder.up_blocks.0.resnets.1` means different layers in the two:
hence two namings.
Source: Wan 2.1, `wan/modules/vae.py`; Wan 2.2, `vae2_2.py`; diffusers, `autoencoder_kl_wan.py`.
"""

from __future__ import annotations

from engine.checkpoints.names.templates import naming

_RESIDUAL = (
    ("residual.0.gamma", "norm1.gamma"),
    ("residual.2.{p}", "conv1.{p}"),
    ("residual.3.gamma", "norm2.gamma"),
    ("residual.6.{p}", "conv2.{p}"),
    ("shortcut.{p}", "conv_shortcut.{p}"),
)
_RESAMPLE = (("resample.1.{p}", "resample.1.{p}"), ("time_conv.{p}", "time_conv.{p}"))
_ATTENTION = (("norm.gamma", "norm.gamma"), ("to_qkv.{p}", "to_qkv.{p}"), ("proj.{p}", "proj.{p}"))
_SIDE = (
    ("conv1.{p}", "conv_in.{p}"),
    ("head.0.gamma", "norm_out.gamma"),
    ("head.2.{p}", "conv_out.{p}"),
)

Pairs = tuple[tuple[str, str], ...]


def _under(original: str, theirs: str, pairs: Pairs) -> Pairs:
    return tuple((f"{original}.{a}", f"{theirs}.{b}") for a, b in pairs)


def _shared() -> Pairs:
    """What is spelt alike in both generations."""
    pairs: Pairs = (("conv1.{p}", "quant_conv.{p}"), ("conv2.{p}", "post_quant_conv.{p}"))
    for side in ("encoder", "decoder"):
        pairs += _under(side, side, _SIDE)
        pairs += _under(f"{side}.middle.0", f"{side}.mid_block.resnets.0", _RESIDUAL)
        pairs += _under(f"{side}.middle.1", f"{side}.mid_block.attentions.0", _ATTENTION)
        pairs += _under(f"{side}.middle.2", f"{side}.mid_block.resnets.1", _RESIDUAL)
    return pairs


def _wan21() -> Pairs:
    pairs = _under("encoder.downsamples.{i}", "encoder.down_blocks.{i}", _RESIDUAL + _RESAMPLE)
    for stage in range(4):
        theirs = f"decoder.up_blocks.{stage}"
        for layer in range(3):
            pairs += _under(
                f"decoder.upsamples.{4 * stage + layer}", f"{theirs}.resnets.{layer}", _RESIDUAL
            )
        if stage < 3:
            pairs += _under(
                f"decoder.upsamples.{4 * stage + 3}", f"{theirs}.upsamplers.0", _RESAMPLE
            )
    return pairs


def _wan22() -> Pairs:
    pairs: Pairs = ()
    for side, one, last in (("encoder", "down", 2), ("decoder", "up", 3)):
        original, theirs = f"{side}.{one}samples.{{i}}.{one}samples", f"{side}.{one}_blocks.{{i}}"
        for layer in range(last):
            pairs += _under(f"{original}.{layer}", f"{theirs}.resnets.{layer}", _RESIDUAL)
        pairs += _under(f"{original}.{last}", f"{theirs}.{one}sampler", _RESAMPLE)
    return pairs


_PAIRS_21 = _shared() + _wan21()
_PAIRS_22 = _shared() + _wan22()

NAMINGS = {
    "original": naming((original, original) for original in dict(_PAIRS_21 + _PAIRS_22)),
    "diffusers": naming(_PAIRS_21),
    "diffusers-2.2": naming(_PAIRS_22),
}
