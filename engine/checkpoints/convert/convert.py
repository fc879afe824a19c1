"""One published layout into another, tensor by tensor, and read back for comparison before it counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.convert import configurations
from engine.checkpoints.convert.squeezing import codes_and_scale, note_of
from engine.checkpoints.convert.writers import (
    Planned,
    dtype_name,
    quantised_and_back,
    whole_or_nothing,
    write_gguf,
    write_json,
    write_pth,
    write_safetensors,
    write_sharded,
)
from engine.checkpoints.formats.holes import check_no_holes
from engine.checkpoints.formats.reading import bytes_of
from engine.checkpoints.formats.table import BLOCKS
from engine.checkpoints.held.holding import ROUNDED, is_large
from engine.checkpoints.known.expected import is_taehv
from engine.checkpoints.known.recognise import describe, recognise
from engine.checkpoints.layout import Entry, Layout, lay_out
from engine.checkpoints.load import TORCH_DTYPES, Weights, natural_dtype
from engine.checkpoints.locate import SPIECE_FILE, tokenizer_in
from engine.checkpoints.names import from_original, to_original, unwrapped
from engine.checkpoints.packing.notes import NOTE
from engine.checkpoints.packing.quantised import BESIDE, MARK, without_quanto
from engine.checkpoints.source import Source, open_source
from engine.checkpoints.vocabulary.ggml import gguf_fields
from engine.checkpoints.vocabulary.held import (
    SPIECE,
    holds_vocabulary,
    read_spiece,
    spiece_bytes,
    spiece_of,
    vocabulary_in,
)
from engine.checkpoints.vocabulary.sentencepiece_model import of_sentencepiece, sentencepiece
from engine.checkpoints.vocabulary.unigram import of_tokenizer_json
from engine.errors import CheckpointError

CPU = torch.device("cpu")

# layout -> component -> naming
LAYOUTS: dict[str, dict[str, str]] = {
    "original": {
        "denoiser": "original", "vae": "original", "text_encoder": "original", "image_encoder": "original",
    },
    "diffusers": {
        "denoiser": "diffusers", "vae": "diffusers", "text_encoder": "huggingface", "image_encoder": "huggingface",
    },
    "comfyui": {
        "denoiser": "original", "vae": "original", "text_encoder": "huggingface", "image_encoder": "huggingface",
    },
    "gguf": {"denoiser": "original", "text_encoder": "llama.cpp"},
}  # fmt: skip

PLAIN = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# what the gguf package can write; the K types it can only read
BLOCK_TYPES = {"q8_0": "Q8_0", "q5_1": "Q5_1", "q5_0": "Q5_0", "q4_1": "Q4_1", "q4_0": "Q4_0"}
DTYPES = ("keep", *PLAIN)
# what the large matrices may be rounded to -> the layout whose readers know it
QUANTISED = {"fp8": "comfyui", "int8": "comfyui", **dict.fromkeys(BLOCK_TYPES, "gguf")}

_TEXT = "U8"  # of what is no numbers
_FLOATS = ("F16", "BF16", "F32", "F64")
_SLICE = 1 << 23  # numbers looked at at a time
# what to choose where a number is too large for a dtype; `bf16` elsewhere
_WIDER = {"BF16": "fp32", "F32": "keep"}
SHARD_BYTES = 10 * 10**9  # as diffusers shards by default


@dataclass(frozen=True, slots=True)
class Stored:
    """What a tensor is stored as: a dtype's safetensors name or a GGUF block type, and its largest number.
    keeps_infinity: whether it can say that a number is infinite."""

    dtype: str
    largest: float
    keeps_infinity: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of the target and how to make it: in its dtype, or in fp32 where the GGUF writer packs it."""

    planned: Planned
    make: Callable[[], Tensor]


def convert(
    source: Source,
    target: Path,
    *,
    layout: str,
    dtype: str = "keep",
    quantise: str = "",
    shard_bytes: int = SHARD_BYTES,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda text: None,
    on_error: Callable[[str, float], None] = lambda name, error: None,
) -> Path:
    """Writes what `source` holds in another of LAYOUTS and returns `target`: a folder of safetensors and their
    config.json for `diffusers` and for an `original` transformer, a file for the rest (`.pth` for the other
    components of `original`).

    dtype: one of DTYPES; `keep` stores every tensor as it is stored. quantise: what the large matrices of the blocks
    are rounded to, one of QUANTISED or empty: `int8` with a scale for each row, `fp8` (e4m3) with one for each matrix,
    both with ComfyUI's notes, or a type of GGUF's blocks; `dtype` is that of the rest then.
    on_tensor: called with how many of how many tensors were read back. warn: told of what the source holds that the
    target does not. on_error: told of each weight that was quantised, by its original name, how far it is from what it
    was: the L2 norm of the difference over that of the weight.

    What was written is read back and compared bit for bit with what should be there; only then does it appear
    under its name. Raises CheckpointError, and leaves nothing behind, where the source is not whole, the target
    exists, the layout does not know the component, a number is too large for the dtype, or something differs.
    """
    held = lay_out(source)
    found = recognise(source, held)
    naming = LAYOUTS[layout].get(held.component)
    if naming is None:
        raise CheckpointError(
            f"{source.path}: {found.variant or held.component} cannot be written as {layout}, which is known for "
            f"{', '.join(LAYOUTS[layout]).replace('_', ' ')} only"
        )
    if held.component == "vae" and is_taehv(held.entries):
        raise CheckpointError(f"{source.path}: a TAEHV, which is read everywhere as it is")
    if faults := describe(found.missing, found.unexpected, found.misshapen):
        raise CheckpointError(f"{source.path}: not whole: {faults}; get the complete files first")
    check_no_holes(source.tensors)
    _check_dtype(source, held, layout, dtype, quantise)
    vocabulary = None
    if held.component == "text_encoder" and layout in ("comfyui", "gguf"):
        vocabulary = _vocabulary_of(source, layout, warn)
    elif layout == "diffusers":
        vocabulary = _own_vocabulary(source)
    whole = _with_the_rest_of_clip(source, held, layout, naming)
    _tell_left_out(source, whole, vocabulary is not None, warn)
    # in this order a source that changed meanwhile is noticed before the target gets its name
    with whole_or_nothing(target) as draft, Weights(whole.entries) as weights:
        pieces = _pieces(whole, weights, naming, layout, dtype, quantise)
        if vocabulary is not None and layout == "comfyui":
            pieces.append(_spiece(vocabulary))
        _write(draft, source, held, layout, pieces, shard_bytes, vocabulary)
        _verify(draft, held, pieces, on_tensor)
        if quantise:
            _compare(draft, weights, on_error)
    return target


def _check_dtype(source: Source, held: Layout, layout: str, dtype: str, quantise: str) -> None:
    if quantise and layout != QUANTISED[quantise]:
        plain = f", or one of {', '.join(PLAIN)} without it" if layout in LAYOUTS else ""
        raise CheckpointError(
            f"{quantise} is stored in the layout {QUANTISED[quantise]} only; choose that layout{plain}"
        )
    if quantise and held.component not in ("denoiser", "text_encoder"):
        raise CheckpointError(
            f"{source.path}: a {held.component.replace('_', ' ')} is not quantised; choose --dtype keep, "
            f"{', '.join(PLAIN)}"
        )
    if dtype != "keep" or quantise:
        return
    stored = {part.dtype for entry in held.entries.values() for part in entry.parts}
    if stored & BLOCKS.keys() or any(entry.packings for entry in held.entries.values()):
        raise CheckpointError(
            f"{source.path}: is quantised; say what to store instead, --dtype {', '.join(PLAIN)} or --quantise "
            f"{', '.join(QUANTISED)}"
        )
    if layout != "comfyui" and any(name.startswith("F8") for name in stored):
        raise CheckpointError(
            f"{source.path}: holds fp8, which is stored in the layout comfyui only; say what to store instead, for "
            "example --dtype bf16"
        )


def _vocabulary_of(source: Source, layout: str, warn: Callable[[str], None]) -> bytes | None:
    """The SentencePiece model that readers of such a file want inside: the source's own, the one beside it, or the
    pieces of the tokenizer.json beside it."""
    held = _own_vocabulary(source)
    if held is not None:
        return held
    beside = tokenizer_in(source.path.parent, SPIECE_FILE)
    if beside is not None:
        return read_spiece(beside)
    advice = f"put spiece.model of google/umt5-xxl beside {source.path.name} and convert again"
    tokenizer = tokenizer_in(source.path.parent)
    if tokenizer is None:
        warn(f"no vocabulary is inside, which {layout} text encoders have: {advice}")
        return None
    found = of_tokenizer_json(tokenizer)
    if found.lost:
        warn(
            f"no vocabulary is inside, which {layout} text encoders have: it cannot say how {tokenizer.name} reads "
            f"text ({', '.join(found.lost)}); {advice}"
        )
        return None
    return sentencepiece(found)


def _own_vocabulary(source: Source) -> bytes | None:
    """The SentencePiece model of what a source holds inside, bit for bit where it is one."""
    if not holds_vocabulary(source):
        return None
    found, info = vocabulary_in(source), spiece_of(source)
    return sentencepiece(found) if info is None else spiece_bytes(info)


def _spiece(data: bytes) -> Piece:
    numbers = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return Piece(Planned(SPIECE, _TEXT, (len(data),)), lambda: numbers)


def _with_the_rest_of_clip(source: Source, held: Layout, layout: str, naming: str) -> Layout:
    """An image encoder with the text half, the projections and the scale of a whole CLIP, for files of a layout that
    have them under the names that the source has."""
    if held.component != "image_encoder" or held.naming != naming or layout == "diffusers":
        return held
    more = {}
    for name, info in source.tensors.items():
        bare = without_quanto(unwrapped(name).removeprefix(held.prefix))
        if bare.endswith(BESIDE):
            continue
        if info.dtype in _FLOATS and to_original(held.component, naming, bare) is None:
            more[bare] = Entry((info,), info.shape)
    return replace(held, entries={**held.entries, **more})


def _tell_left_out(
    source: Source, held: Layout, has_vocabulary: bool, warn: Callable[[str], None]
) -> None:
    """Tells of tensors of the source that are no part of the component, and so of no target."""
    kept = {
        (part.file, part.start, part.stop)
        for entry in held.entries.values()
        for part in (*entry.parts, *(packing.scale for packing in entry.packings if packing))
    }
    names = [
        name
        for name, info in source.tensors.items()
        if (info.file, info.start, info.stop) not in kept
    ]
    names = [
        name
        for name in names
        if name != MARK
        and not name.endswith(BESIDE)
        and not (has_vocabulary and name.rpartition(".")[2] == SPIECE)
    ]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warn(
            f"left out, as no part of the {held.component.replace('_', ' ')}: {', '.join(names[:3])}{more}"
        )


def _pieces(
    held: Layout, weights: Weights, naming: str, layout: str, dtype: str, quantise: str
) -> list[Piece]:
    """What to write, in the order of the source."""
    pieces = []
    for original, entry in held.entries.items():
        shape = configurations.shape_in(naming, original, entry.shape)
        squeezed = quantise if is_large(original, shape) else ""
        stored = _stored_as(dtype_name(natural_dtype(entry)), shape, layout, dtype, squeezed)
        names = from_original(held.component, naming, original)
        for index, name in enumerate(names):
            part = (shape[0] // len(names), *shape[1:]) if len(names) > 1 else shape
            values = partial(_values, weights, original, index, len(names), part, stored)
            pieces += _stored(Planned(name, stored.dtype, part), values, squeezed)
    return pieces


def _values(
    weights: Weights,
    original: str,
    index: int,
    count: int,
    shape: tuple[int, ...],
    stored: Stored,
    dtype: torch.dtype,
) -> Tensor:
    """The `index`-th of `count` equal parts of an original tensor. Raises CheckpointError where a number of it is
    too large for what it is to be stored as."""
    whole = weights.tensor(original, device=CPU, dtype=dtype)
    natural = natural_dtype(weights.entries[original])
    is_narrower = stored.dtype != dtype_name(natural)
    if is_narrower and not (stored.keeps_infinity and whole.isfinite().all()):
        _check_range(weights, original, stored)
    return (whole.chunk(count)[index] if count > 1 else whole).reshape(shape)


def _check_range(weights: Weights, original: str, stored: Stored) -> None:
    entry = weights.entries[original]
    numbers = weights.tensor(original, device=CPU, dtype=natural_dtype(entry))
    for piece in numbers.flatten().split(_SLICE):
        magnitudes = piece.to(torch.float64).abs()
        if stored.keeps_infinity:
            magnitudes = magnitudes[magnitudes.isfinite()]
        if not (magnitudes <= stored.largest).all():
            raise CheckpointError(
                f"{entry.parts[0].file}: {original} holds numbers up to {magnitudes.max():.3g}, but {stored.dtype} "
                f"ends at {stored.largest:.3g}; choose --dtype {_WIDER.get(stored.dtype, 'bf16')}"
            )


def _stored_as(held: str, shape: tuple[int, ...], layout: str, dtype: str, squeezed: str) -> Stored:
    """squeezed: what the numbers of this tensor are rounded to, empty where they are stored in a dtype."""
    if squeezed in ROUNDED:
        return Stored(ROUNDED[squeezed], torch.finfo(torch.float32).max, False)
    name = held if dtype == "keep" else dtype_name(PLAIN[dtype])
    if squeezed:
        name = BLOCK_TYPES[squeezed] if shape[-1] % BLOCKS[BLOCK_TYPES[squeezed]][1] == 0 else "F16"
    if layout == "gguf" and len(shape) != 2 and name not in BLOCKS:
        name = "F32"  # the readers of GGUF know BF16 in matrices only
    if name in BLOCKS:
        return Stored(name, torch.finfo(torch.float16).max, False)  # which the scales of blocks are
    return Stored(name, torch.finfo(TORCH_DTYPES[name]).max, name != "F8_E4M3")


def _stored(
    planned: Planned, values: Callable[[torch.dtype], Tensor], squeezed: str
) -> list[Piece]:
    """A tensor as it is stored, with what lies beside it."""
    if planned.dtype in BLOCKS:
        return [Piece(planned, lambda: values(torch.float32))]
    if squeezed not in ROUNDED:
        return [Piece(planned, lambda: values(TORCH_DTYPES[planned.dtype]))]

    def of(index: int) -> Callable[[], Tensor]:
        return lambda: codes_and_scale(values(torch.float32), squeezed, by_row=by_row)[index]

    by_row = squeezed == "int8"  # readers of fp8 know one scale for each matrix
    layer = planned.name.removesuffix(".weight")
    shape = (planned.shape[0], 1) if by_row else ()
    said = note_of(squeezed)
    return [
        Piece(planned, of(0)),
        Piece(Planned(f"{layer}.weight_scale", "F32", shape), of(1)),
        Piece(Planned(f"{layer}{NOTE}", _TEXT, tuple(said.shape)), lambda: said),
    ]


def _write(
    draft: Path,
    source: Source,
    held: Layout,
    layout: str,
    pieces: Sequence[Piece],
    shard_bytes: int,
    vocabulary: bytes | None,
) -> None:
    tensors = [piece.planned for piece in pieces]
    makers = {piece.planned.name: piece.make for piece in pieces}

    def read(name: str) -> Tensor:
        return makers[name]()

    config = configurations.configuration(layout, source, held)
    metadata = {"format": "pt"}
    if (
        held.component == "denoiser"
    ):  # the one thing that a DiT's tensors do not tell is its number of heads
        metadata = {"config": json.dumps(config, sort_keys=True)}
    if layout == "comfyui":
        write_safetensors(draft, tensors, read, metadata=metadata)
    elif layout == "gguf":
        architecture = "wan" if held.component == "denoiser" else "t5encoder"
        fields = (
            {} if vocabulary is None
            else gguf_fields(of_sentencepiece(vocabulary))
        )  # fmt: skip
        write_gguf(
            draft, tensors, read, architecture=architecture, metadata=metadata, tokenizer=fields
        )
    elif layout == "original" and held.component != "denoiser":
        write_pth(draft, tensors, read)
    else:
        draft.mkdir()
        stem = "diffusion_pytorch_model" if held.component in ("denoiser", "vae") else "model"
        write_sharded(draft, stem, tensors, read, shard_bytes=shard_bytes)
        write_json(draft / "config.json", config)
        if vocabulary is not None:
            (draft / SPIECE_FILE).write_bytes(vocabulary)


def _verify(
    draft: Path, held: Layout, pieces: Sequence[Piece], on_tensor: Callable[[int, int], None]
) -> None:
    """Raises CheckpointError unless every tensor reads back as it was made, and all of them as this component."""
    written = open_source(draft)
    again = lay_out(written)
    if again.entries.keys() != held.entries.keys() or again.faults:
        raise CheckpointError(
            f"{draft}: what was written does not read back as what it was made of"
        )
    numbers = {
        name: Entry((info,), info.shape)
        for name, info in written.tensors.items()
        if info.dtype not in (_TEXT, "I8")
    }
    with Weights(numbers) as back:
        for done, piece in enumerate(pieces, 1):
            wanted = piece.make()
            if piece.planned.dtype == _TEXT:
                if bytes_of(written.tensors[piece.planned.name]) != wanted.numpy().tobytes():
                    raise _unlike(draft, piece)
                on_tensor(done, len(pieces))
                continue
            if piece.planned.dtype in BLOCKS:
                wanted = quantised_and_back(wanted, piece.planned.dtype)
            if piece.planned.dtype == "I8":
                actual = torch.empty(piece.planned.shape, dtype=torch.int8)
                back.stored_into(written.tensors[piece.planned.name], actual)
            else:
                actual = back.tensor(piece.planned.name, device=CPU)
            if actual.shape != wanted.shape or not _same_bits(actual, wanted):
                raise _unlike(draft, piece)
            on_tensor(done, len(pieces))


def _compare(draft: Path, weights: Weights, on_error: Callable[[str, float], None]) -> None:
    """Tells how far the large matrices that were written are from those of the source."""
    entries = lay_out(open_source(draft)).entries
    with Weights(entries) as back:
        for name, entry in entries.items():
            if not is_large(name, entry.shape):
                continue
            numbers, was = (
                each.tensor(name, device=CPU, dtype=torch.float32) for each in (back, weights)
            )
            norm = float(was.norm())
            on_error(name, float((numbers - was).norm()) / norm if norm else 0.0)


def _unlike(draft: Path, piece: Piece) -> CheckpointError:
    return CheckpointError(
        f"{draft}: {piece.planned.name} does not read back as written; check the disk and try again"
    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype:
        return False
    return torch.equal(
        a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8)
    )
