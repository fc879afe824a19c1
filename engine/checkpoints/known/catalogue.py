"""The models that presets name: what each is, and in which published files it can be had. Torch-free.

Names and bytes are those of the repositories on Hugging Face; bytes that nobody here has checked are `None`, and
what the weights must at least take stands beside them. The publisher's own release comes first, where it is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath

_GENERIC = ("diffusion_pytorch_model", "config.json", "tokenizer.json")
_SHARD = re.compile(r"(.+-)(\d{5})(-of-\d{5}\..+)")


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a repository, by its path there (`*` where the number of shards is not known).

    num_bytes: exact, `None` where it is not known.
    """

    name: str
    num_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """One way to get a model. repository: on Hugging Face. note: what the numbers are stored as.

    about_bytes: parameters times bytes, where the size of a file is not known exactly.
    """

    repository: str
    files: tuple[PublishedFile, ...]
    note: str
    about_bytes: int | None = None

    @property
    def num_bytes(self) -> int | None:
        """The bytes of all its files, `None` where one is not known exactly."""
        sizes = [file.num_bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True, slots=True)
class Model:
    """What a preset can name. kind: the component. variants: as `recognise` calls what will do, best first."""

    name: str
    kind: str
    title: str
    variants: tuple[str, ...]
    releases: tuple[Release, ...]


def model(name: str, kind: str = "") -> Model | None:
    """The model of that name, of that component kind where one is given."""
    return next((m for m in MODELS if m.name == name and kind in ("", m.kind)), None)


def is_published_name(model: Model, path: PurePath) -> bool:
    """Whether a file is called as in a release of the model, an unfinished download or an index included.

    Names that every release uses count only in a folder that is called as the repository.
    """
    for release in model.releases:
        in_repository = release.repository.rpartition("/")[2] in str(path.parent)
        for file in release.files:
            name = PurePosixPath(file.name).name.removesuffix("*")
            if path.name.startswith(name) and (in_repository or not name.startswith(_GENERIC)):
                return True
    return False


def file_list(release: Release) -> str:
    """The files of a release and their sizes on one line; a run of shards is told once."""
    told: list[str] = []
    for name, group in file_runs(release):
        sizes = [decimal_size(file.num_bytes) for file in group if file.num_bytes is not None]
        told.append(f"{name} ({', '.join(sizes)})" if sizes else name)
    return ", ".join(told)


def file_runs(release: Release) -> list[tuple[str, list[PublishedFile]]]:
    """The files of a release by name, a run of shards under one: `model-{00001..00006}-of-00006.safetensors`."""
    told: list[tuple[str, list[PublishedFile]]] = []
    for group in _shard_runs(release.files):
        name = group[0].name
        if len(group) > 1:
            shard = _SHARD.fullmatch(name)
            assert shard is not None
            last = _SHARD.fullmatch(group[-1].name)
            assert last is not None
            name = f"{shard[1]}{{{shard[2]}..{last[2]}}}{shard[3]}"
        told.append((name, group))
    return told


def total_size(release: Release) -> str:
    """`57.15 GB`, `about 69.4 GB`, or nothing where not even that is known."""
    if release.num_bytes is not None:
        return decimal_size(release.num_bytes)
    return f"about {decimal_size(release.about_bytes)}" if release.about_bytes else ""


def decimal_size(num_bytes: int) -> str:
    """Bytes as the pages of Hugging Face tell them: `57.15 GB`, `508 MB`, `97 kB`."""
    for unit, digits, power in (("GB", 2, 10**9), ("MB", 0, 10**6), ("kB", 0, 10**3)):
        if num_bytes >= power:
            return f"{num_bytes / power:.{digits}f} {unit}"
    return f"{num_bytes} bytes"


def _shard_runs(files: tuple[PublishedFile, ...]) -> list[list[PublishedFile]]:
    runs: list[list[PublishedFile]] = []
    for file in files:
        shard = _SHARD.fullmatch(file.name)
        before = _SHARD.fullmatch(runs[-1][0].name) if runs else None
        if shard and before and (shard[1], shard[3]) == (before[1], before[3]):
            runs[-1].append(file)
        else:
            runs.append([file])
    return runs


def _shards(*sizes: int, index: int | None) -> tuple[PublishedFile, ...]:
    stem, total = "diffusion_pytorch_model", len(sizes)
    shards = tuple(
        PublishedFile(f"{stem}-{number:05}-of-{total:05}.safetensors", size)
        for number, size in enumerate(sizes, 1)
    )
    return (*shards, PublishedFile(f"{stem}.safetensors.index.json", index))


def _of_unknown_shards(repository: str, parameters: int) -> Release:
    file = PublishedFile("diffusion_pytorch_model*")
    return Release(repository, (file,), "fp32", about_bytes=4 * parameters)


def _comfy(
    file: str,
    num_bytes: int | None,
    note: str,
    folder: str = "diffusion_models",
    about: int | None = None,
) -> Release:
    published = PublishedFile(f"split_files/{folder}/{file}", num_bytes)
    return Release("Comfy-Org/Wan_2.1_ComfyUI_repackaged", (published,), note, about)


def _kijai(file: str, num_bytes: int | None, note: str, about: int | None = None) -> Release:
    return Release("Kijai/WanVideo_comfy", (PublishedFile(file, num_bytes),), note, about)


_WAN = "Wan-AI/Wan2.1-"
_I2V_SHARDS = _shards(
    9_847_223_624, 9_797_021_016, 9_797_041_744, 9_692_142_864, 9_692_142_864, 9_692_142_864,
    7_061_933_536, index=None,
)  # fmt: skip

# Parameters, for what the weights of a release must at least take.
_T2V_1_3B, _T2V_14B, _I2V_14B, _FLF2V_14B = (
    1_418_996_800,
    14_288_491_584,
    16_394_878_784,
    16_395_536_704,
)
_VACE_1_3B, _VACE_14B, _UMT5, _VAE, _CLIP = (
    2_153_972_032, 17_337_592_896, 5_680_910_336, 126_892_531, 632_076_800,
)  # fmt: skip

MODELS: tuple[Model, ...] = (
    Model(
        "wan2.1-t2v-1.3b", "denoiser", "Wan 2.1 text to video, 1.3B", ("wan2.1-t2v-1.3b",),
        (
            Release(
                f"{_WAN}T2V-1.3B",
                (PublishedFile("diffusion_pytorch_model.safetensors", 5_676_070_424), PublishedFile("config.json")),
                "fp32",
                about_bytes=5_676_070_424,
            ),
            _comfy("wan2.1_t2v_1.3B_fp16.safetensors", 2_838_303_560, "fp16"),
            _kijai("Wan2_1-T2V-1_3B_bf16.safetensors", None, "bf16", 2 * _T2V_1_3B),
        ),
    ),
    Model(
        "wan2.1-t2v-14b", "denoiser", "Wan 2.1 text to video, 14B", ("wan2.1-t2v-14b",),
        (
            Release(
                f"{_WAN}T2V-14B",
                _shards(
                    9_887_603_256, 9_839_059_648, 9_839_059_744, 9_839_059_744, 9_839_059_744,
                    7_910_235_256, index=96_805,
                ),
                "fp32",
            ),
            _comfy("wan2.1_t2v_14B_bf16.safetensors", None, "bf16", about=2 * _T2V_14B),
            _comfy("wan2.1_t2v_14B_fp16.safetensors", None, "fp16", about=2 * _T2V_14B),
            _kijai("Wan2_1-T2V-14B_fp8_e4m3fn.safetensors", None, "fp8", _T2V_14B),
        ),
    ),
    Model(
        "wan2.1-i2v-14b-480p", "denoiser", "Wan 2.1 image to video, 14B, 480p",
        ("wan2.1-i2v-14b-480p", "wan2.1-i2v-14b"),
        (
            Release(f"{_WAN}I2V-14B-480P", _I2V_SHARDS, "fp32", about_bytes=4 * _I2V_14B),
            _comfy("wan2.1_i2v_480p_14B_fp16.safetensors", 32_791_377_504, "fp16"),
            _kijai("Wan2_1-I2V-14B-480P_fp8_e4m3fn.safetensors", None, "fp8", _I2V_14B),
        ),
    ),
    Model(
        "wan2.1-i2v-14b-720p", "denoiser", "Wan 2.1 image to video, 14B, 720p",
        ("wan2.1-i2v-14b-720p", "wan2.1-i2v-14b"),
        (
            Release(f"{_WAN}I2V-14B-720P", _I2V_SHARDS, "fp32", about_bytes=4 * _I2V_14B),
            _comfy("wan2.1_i2v_720p_14B_fp16.safetensors", None, "fp16", about=2 * _I2V_14B),
            _comfy("wan2.1_i2v_720p_14B_bf16.safetensors", None, "bf16", about=2 * _I2V_14B),
            _kijai("Wan2_1-I2V-14B-720P_fp8_e4m3fn.safetensors", None, "fp8", _I2V_14B),
        ),
    ),
    Model(
        "wan2.1-flf2v-14b", "denoiser", "Wan 2.1 first and last frame to video, 14B", ("wan2.1-flf2v-14b",),
        (
            _of_unknown_shards(f"{_WAN}FLF2V-14B-720P", _FLF2V_14B),
            _comfy("wan2.1_flf2v_720p_14B_fp16.safetensors", 32_792_693_440, "fp16"),
        ),
    ),
    Model(
        "wan2.1-vace-1.3b", "denoiser", "Wan 2.1 VACE, 1.3B", ("wan2.1-vace-1.3b",),
        (
            _of_unknown_shards(f"{_WAN}VACE-1.3B", _VACE_1_3B),
            _comfy("wan2.1_vace_1.3B_fp16.safetensors", None, "fp16", about=2 * _VACE_1_3B),
        ),
    ),
    Model(
        "wan2.1-vace-14b", "denoiser", "Wan 2.1 VACE, 14B", ("wan2.1-vace-14b",),
        (
            _of_unknown_shards(f"{_WAN}VACE-14B", _VACE_14B),
            _comfy("wan2.1_vace_14B_fp16.safetensors", 34_675_323_640, "fp16"),
        ),
    ),
    Model(
        "umt5-xxl", "text_encoder", "UMT5-XXL, the text encoder of Wan", ("umt5-xxl",),
        (
            Release(
                f"{_WAN}T2V-1.3B", (PublishedFile("models_t5_umt5-xxl-enc-bf16.pth", 11_361_920_418),), "bf16"
            ),
            _comfy("umt5_xxl_fp16.safetensors", 11_366_399_385, "fp16", "text_encoders"),
            _comfy("umt5_xxl_fp8_e4m3fn_scaled.safetensors", 6_735_906_897, "scaled fp8", "text_encoders"),
            _kijai("umt5-xxl-enc-bf16.safetensors", None, "bf16", 2 * _UMT5),
            _kijai("umt5-xxl-enc-fp8_e4m3fn.safetensors", None, "fp8", _UMT5),
        ),
    ),
    Model(
        "umt5-xxl", "tokenizer", "UMT5-XXL's tokenizer", ("umt5-xxl",),
        (Release(f"{_WAN}T2V-1.3B", (PublishedFile("google/umt5-xxl/tokenizer.json", 16_837_417),), "JSON"),),
    ),
    Model(
        "wan2.1-vae", "vae", "Wan 2.1 VAE", ("wan2.1-vae",),
        (
            Release(f"{_WAN}T2V-1.3B", (PublishedFile("Wan2.1_VAE.pth", 507_609_880),), "fp32"),
            _comfy("wan_2.1_vae.safetensors", 253_815_318, "16 bits", "vae"),
            _kijai("Wan2_1_VAE_fp32.safetensors", None, "fp32", 4 * _VAE),
            _kijai("Wan2_1_VAE_bf16.safetensors", 253_806_278, "bf16"),
        ),
    ),
    # MIT. Its author has it on GitHub (madebyollin/taehv), these are copies of that file and of its .pth
    Model(
        "taew2.1", "vae", "TAEHV for the latents of Wan 2.1, a tiny VAE", ("taew2.1",),
        (
            Release("OzzyGT/taew2_1", (PublishedFile("taew2_1.safetensors", 22_642_902),), "fp16"),
            Release("lightx2v/Autoencoders", (PublishedFile("taew2_1.pth", 22_679_486),), "fp16"),
        ),
    ),
    Model(
        "clip-vit-h-14", "image_encoder", "CLIP ViT-H/14, the image encoder of Wan 2.1", ("clip-vit-h-14",),
        (
            Release(
                f"{_WAN}I2V-14B-480P",
                (PublishedFile("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", 4_772_359_047),),
                "fp32, with its text tower",
            ),
            _comfy("clip_vision_h.safetensors", 1_264_219_396, "fp16", "clip_vision"),
            _kijai(
                "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors", None, "fp16", 2 * _CLIP
            ),
        ),
    ),
)  # fmt: skip
