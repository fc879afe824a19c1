"""Weights of every layout and what lies beside them, read as `modiff models list`, a run and a conversion do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints.convert.convert import convert
from engine.checkpoints.library import Found, scan
from engine.checkpoints.places import ADDED, Place, places
from engine.checkpoints.source import open_source
from engine.checkpoints.verify import verify_file
from engine.components.providers import clip, umt5, wan_dit, wan_vae
from engine.errors import CheckpointError, EngineError
from presets.spec.components import DenoiserSpec, ImageEncoderSpec, TextEncoderSpec, VAESpec
from store.index.index import Index, open_index
from store.paths import prepare
from tests.fuzz import mutating
from tests.fuzz.running import Fault
from tests.oracles.later import comfy_layouts
from tests.weights import layouts

Files = dict[str, bytes]

# What ComfyUI's own example says, with what YAML has beyond it.
YAML = b"""# comments
a111:
    base_path: models/webui/
    checkpoints: models/Stable-diffusion
    vae: models/VAE
defaults: &defaults
    base_path: shared
    is_default: true
comfyui:
    <<: *defaults
    diffusion_models: |
        unet
        more/wan
    text_encoders: "clip"
    vae: vae
"""


def make(folder: Path) -> Callable[[Random, Path], str]:
    inputs = _inputs(folder / "inputs")
    scratch = folder.parent / "scratch"
    prepare(scratch / "store")
    index = open_index(scratch / "store")

    def attempt(random: Random, place: Path) -> str:
        kind = random.choice(list(inputs))
        files = _changed(random, inputs[kind])
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        before = sorted(path.name for path in place.rglob("*"))
        if kind == "extra_model_paths":
            return _look_elsewhere(place)
        reasons = [_used(random, found, index, place, scratch) for found in scan(_place(place))]
        if sorted(path.name for path in place.rglob("*")) != before:
            raise Fault("files appeared beside the weights")
        return next(filter(None, reasons), "" if reasons else "nothing found")

    return attempt


def _place(folder: Path) -> Place:
    return Place(folder, ADDED, exists=True)


def _look_elsewhere(place: Path) -> str:
    """Asks where ComfyUI keeps its models; a list that cannot be read is a place itself, and says why."""
    os.environ["COMFYUI_PATH"] = str(place)
    try:
        found = [each for each in places() if each.path == place / "extra_model_paths.yaml"]
    finally:
        del os.environ["COMFYUI_PATH"]
    return scan(found[0])[0].error if found and found[0].exists else ""


def _used(random: Random, found: Found, index: Index, place: Path, scratch: Path) -> str:
    """Why something cannot be used; whatever can is loaded, and now and then converted and verified."""
    if found.recognition is None:
        return found.error
    try:
        if random.random() < 0.1:
            for file in found.files:
                verify_file(index, file)
        component = found.recognition.component
        loads = random.random() < 0.4  # which takes longest
        if component == "denoiser":
            dit = DenoiserSpec(checkpoint=str(found.path), dtype="fp32", device="cpu")
            wan_dit.describe(dit, index)
            loads and wan_dit.load(dit)
        elif component == "vae":
            vae = VAESpec(checkpoint=str(found.path), dtype="fp32", device="cpu")
            wan_vae.describe(vae, index)
            loads and wan_vae.load(vae)
        elif component == "text_encoder":
            encoder = TextEncoderSpec(
                checkpoint=str(found.path), tokenizer="builtin:micro", dtype="fp32", device="cpu"
            )
            if (found.path.parent / "tokenizer.json").is_file():
                encoder = TextEncoderSpec(checkpoint=str(found.path), dtype="fp32", device="cpu")
            umt5.describe(encoder, index)
            loads and umt5.load(encoder).encode("a red circle")
        elif component == "image_encoder":
            looks = ImageEncoderSpec(checkpoint=str(found.path), dtype="fp32", device="cpu")
            clip.describe(looks, index)
            loads and clip.use(clip.load(looks), looks).encode([torch.zeros(3, 8, 9)])
        if random.random() < 0.04:
            _convert(random, found, scratch)
    except EngineError as error:
        return str(error)
    return ""


def _convert(random: Random, found: Found, scratch: Path) -> None:
    layout = random.choice(("original", "diffusers", "comfyui", "gguf"))
    target = scratch / "converted"
    try:
        convert(
            open_source(found.path), target, layout=layout, dtype=random.choice(("bf16", "fp32"))
        )
    except CheckpointError:
        if left := [
            path.name for path in scratch.iterdir() if path.name not in ("store", "config")
        ]:
            raise Fault(f"a conversion left {left[0][:20]}") from None
        raise
    target.unlink() if target.is_file() else _remove(target)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _changed(random: Random, files: Files) -> Files:
    """Of one file the content, or seldom the name, its being there, or that of another."""
    names = [name for name in files if not name.endswith("config.json") or random.random() < 0.5]
    name = random.choice(names or list(files))
    changed = dict(files)
    match random.randrange(40):
        case 0 if len(files) > 1:
            del changed[name]
        case 1:
            other = random.choice(list(files))
            changed[name] = files[other]
        case 2:
            changed[name] = b""
        case _:
            changed[name] = _change_of(name)(random, files[name])
    return changed


def _change_of(name: str) -> Callable[[Random, bytes], bytes]:
    if name.endswith(".safetensors"):
        return mutating.of_safetensors
    if name.endswith(".json"):
        return mutating.of_json
    if name.endswith(".pth"):
        return lambda random, content: mutating.of_zip(random, content, _of_pickle)
    if name.endswith(".yaml"):
        return mutating.of_text
    return lambda random, content: mutating.of_bytes(random, content, within=20_000)


# Opcodes of protocol 2 with their arguments: what torch.save writes, what it never does, and what would run.
_PICKLE = (
    *(bytes([code]) for code in b"})](tuRbsaeQN.0l2\x81\x85\x86\x87\x88\x89\x94\x93"),
    *(b"q\0", b"h\0", b"h\x7f", b"K\0", b"K\x03", b"J\xff\xff\xff\xff", b"M\xff\xff", b"\x8a\x01\x7f"),
    *(b"\x8a\xff" + b"\x7f" * 255, b"I1\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"X\x04\0\0\0true"),
    *(b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n"),
)  # fmt: skip


def _of_pickle(random: Random, content: bytes) -> bytes:
    if random.random() < 0.5:
        return mutating.of_bytes(random, content, within=min(4096, len(content) + 1))
    at = random.randrange(min(len(content), 8000) + 1)
    pieces = b"".join(random.choices(_PICKLE, k=random.randint(1, 4)))
    return content[:at] + pieces + content[at + random.choice((0, 0, 1, 5)) :]


def _inputs(folder: Path) -> dict[str, Files]:
    """The micro model in every layout that is published, by what it is."""
    micro = {path.name: path.read_bytes() for path in layouts.MICRO.iterdir() if path.is_file()}
    config, tokenizer = micro["config.json"], micro["tokenizer.json"]
    diffusers = layouts.diffusers_folder(folder / "diffusers")
    comfyui = layouts.comfyui_folder(folder / "comfyui")
    ggufs = layouts.gguf_folder(folder / "gguf")
    encoder = layouts.huggingface_umt5_folder(folder / "umt5")["text_encoder"]
    found: dict[str, Files] = {
        "original": {"dit.safetensors": micro["dit.safetensors"], "config.json": config},
        "original vae": {"vae.safetensors": micro["vae.safetensors"]},
        "transformer": _read(diffusers["denoiser"]),
        "diffusers vae": _read(diffusers["vae"]),
        "umt5": _read(encoder),
        "comfyui": {"wan.safetensors": comfyui["denoiser"].read_bytes(), "config.json": config},
        "comfyui encoder": {"umt5.safetensors": comfyui["text_encoder"].read_bytes()},
        "int8 beside": {"wan.safetensors": _int8(folder, beside=True), "config.json": config},
        "int8 metadata": {"wan.safetensors": _int8(folder, beside=False), "config.json": config},
        "gguf": {"wan.gguf": ggufs["denoiser"].read_bytes()},
        "clip": _read(layouts.tiny_clip_folder(folder / "clip")["image_encoder"]),
        "tokenizer": {"tokenizer.json": tokenizer, "umt5.safetensors": micro["text_encoder.safetensors"]},
        "extra_model_paths": {"extra_model_paths.yaml": YAML},
    }  # fmt: skip
    for kind in ("text_encoder", "vae"):
        torch.save(load_file(layouts.MICRO / f"{kind}.safetensors"), folder / f"{kind}.pth")
        found[f"pth {kind}"] = {f"{kind}.pth": (folder / f"{kind}.pth").read_bytes()}
    clip_pth = _converted(folder, found["clip"], "model.safetensors", "original", dtype="fp32")
    found["pth clip"] = {"clip.pth": clip_pth}
    whole = {"tokenizer.json": tokenizer, "umt5.safetensors": micro["text_encoder.safetensors"]}
    found["gguf encoder"] = {
        "umt5.gguf": _converted(folder, whole, "umt5.safetensors", "gguf", quantise="q8_0"),
        "tokenizer.json": tokenizer,
    }
    found["fp8 scaled"] = {
        "wan.safetensors": _converted(
            folder, found["original"], "dit.safetensors", "comfyui", quantise="fp8"
        ),
        "config.json": config,
    }
    return found


def _read(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _converted(folder: Path, files: Files, name: str, layout: str, **how: str) -> bytes:
    place = folder / f"for {layout}"
    place.mkdir()
    for each, content in files.items():
        (place / each).write_bytes(content)
    target = convert(open_source(place / name), place / "converted", layout=layout, **how)
    return target.read_bytes()


def _int8(folder: Path, *, beside: bool) -> bytes:
    """As ComfyUI stores matrices in int8, by its own code: what they are said beside them or in the metadata."""
    tensors: dict[str, torch.Tensor] = {}
    layers: dict[str, object] = {}
    for name, tensor in load_file(layouts.MICRO / "dit.safetensors").items():
        if "blocks." not in name or tensor.ndim != 2:
            tensors[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        numbers, stored = comfy_layouts.TensorWiseINT8Layout.quantize(
            tensor.float(), per_channel=True, convrot=True, convrot_groupsize=16
        )
        said = {"convrot": True, "convrot_groupsize": 16}
        tensors |= {name: numbers.contiguous(), f"{layer}.weight_scale": stored.scale.contiguous()}
        layers[layer] = {"format": "int8_tensorwise", "params": said}
        if beside:
            text = json.dumps({"format": "int8_tensorwise", **said}).encode()
            tensors[f"{layer}.comfy_quant"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    about = json.dumps({"format_version": "1.0", "layers": layers})
    path = folder / "int8.safetensors"
    save_file(tensors, path, None if beside else {"_quantization_metadata": about})
    return path.read_bytes()
