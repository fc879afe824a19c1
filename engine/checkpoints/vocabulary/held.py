"""The vocabulary that a file holds: a tokenizer.json, a SentencePiece model, or an encoder with one of its own inside.

The rows of an encoder's embedding are numbered by the pieces of its vocabulary: another model's reads every prompt as
other words, without that anything fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from engine.checkpoints.formats.gguf_file import read_gguf_arrays
from engine.checkpoints.formats.reading import bytes_of, facts_at, opened, refusal
from engine.checkpoints.formats.table import Facts, TensorInfo
from engine.checkpoints.opened import layout_at
from engine.checkpoints.source import Source, is_index, is_weights
from engine.checkpoints.vocabulary import ggml
from engine.checkpoints.vocabulary.pieces import MAX_BYTES, Vocabulary
from engine.checkpoints.vocabulary.sentencepiece_model import MAX_MODEL_BYTES, of_sentencepiece
from engine.checkpoints.vocabulary.unigram import as_tokenizer

SPIECE = "spiece_model"
SPIECE_SUFFIX = ".model"
# An embedding has a few more rows than pieces where it was rounded up for a GPU: 256,384 instead of some 256,300.
SPARE_ROWS = 1 / 200
KIND = "Unigram"
_REMEDY = (
    "name a tokenizer.json with --set components.text_encoder.tokenizer=umt5-xxl, or with a path"
)


class _Model(msgspec.Struct):
    type: str = ""
    vocab: list[msgspec.Raw] | dict[str, msgspec.Raw] = []


class _Tokenizer(msgspec.Struct):
    model: _Model


def is_tokenizer_json(path: Path) -> bool:
    """Whether a file is read as a tokenizer.json, by its name: no weights, and no SentencePiece model."""
    return path.suffix != SPIECE_SUFFIX and not is_within_weights(path)


def is_within_weights(path: Path) -> bool:
    """Whether the vocabulary of this path is one inside of weights, by its name."""
    return is_weights(path.name) or is_index(path.name)


def holds_vocabulary(source: Source) -> bool:
    """Whether an encoder's file has a vocabulary of its own, whatever it is worth."""
    return spiece_of(source) is not None or f"{ggml.PREFIX}model" in source.metadata


def spiece_of(source: Source) -> TensorInfo | None:
    """The tensor in which ComfyUI's encoders hold a SentencePiece model."""
    names = (name for name in source.tensors if name.rpartition(".")[2] == SPIECE)
    name = next(names, None)
    return None if name is None else source.tensors[name]


def spiece_bytes(info: TensorInfo) -> bytes:
    """The SentencePiece model that a tensor holds. Raises CheckpointError where it cannot be one."""
    if info.dtype not in ("U8", "I8") or len(info.shape) != 1 or info.strides is not None:
        raise refusal(info.file, f"{SPIECE} is {info.dtype} {list(info.shape)}, not bytes in a row")
    if info.stop - info.start > MAX_MODEL_BYTES:
        raise refusal(info.file, f"{SPIECE} has {info.stop - info.start:,} bytes, more than any")
    return bytes_of(info)


def vocabulary_in(source: Source) -> Vocabulary:
    """The vocabulary that an encoder's file has of its own. Raises CheckpointError where it has none, or a damaged
    one."""
    info = spiece_of(source)
    try:
        if info is not None:
            return of_sentencepiece(spiece_bytes(info))
        said = _without_prefix(source.metadata)
        if "model" not in said:
            raise ValueError("holds no vocabulary")
        names = [ggml.PREFIX + name for name in ggml.ARRAYS]
        return ggml.of_gguf(said, _without_prefix(read_gguf_arrays(source.path, names)))
    except ValueError as error:
        raise refusal(source.path, f"{error}; {_REMEDY}") from None


def read_spiece(path: Path) -> bytes:
    """A SentencePiece model. Raises CheckpointError where the file is none, or none of T5's kind."""
    data = _read(path, "a SentencePiece model")
    try:
        of_sentencepiece(data, path.name)
    except ValueError as error:
        raise refusal(path, f"{error}; get spiece.model of google/umt5-xxl again") from None
    return data


def tokenizer_json(path: Path) -> str:
    """The tokenizer.json that the vocabulary of a file comes to; of one that is a tokenizer.json, its text. Raises
    CheckpointError."""
    if is_within_weights(path):
        return as_tokenizer(vocabulary_in(layout_at(path)[0]))
    if path.suffix == SPIECE_SUFFIX:
        return as_tokenizer(of_sentencepiece(read_spiece(path)))
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise refusal(path, f"not a tokenizer.json ({error}); download it again") from None


def digest_of(path: Path) -> str:
    """`sha256:<hex>` of what reads prompts by the vocabulary inside of weights: two that read a prompt otherwise have
    different ones. Raises CheckpointError."""
    return _told(path, facts_at(_file(path)))[2]


def check_fits(path: Path, num_rows: int) -> None:
    """Raises CheckpointError unless the vocabulary of a file is of UMT5's kind, with as many pieces as an encoder with
    `num_rows` rows has."""
    kind, num_pieces, _ = _told(path, facts_at(_file(path)))
    if kind == KIND and num_rows * (1 - SPARE_ROWS) <= num_pieces <= num_rows:
        return
    raise refusal(
        path,
        f"has {num_pieces:,} {kind or 'unknown'} pieces, but the text encoder has {num_rows:,} rows, numbered "
        f"by {KIND} pieces: it is another model's; name the right one with "
        "--set components.text_encoder.tokenizer=umt5-xxl, or a path",
    )


@lru_cache(maxsize=8)
def _told(path: Path, facts: Facts) -> tuple[str, int, str]:
    """(kind, number of pieces, digest of what reads prompts by them); facts: of the file as it is now."""
    if not is_tokenizer_json(path):
        text = tokenizer_json(path)
        return *_pieces(path, text.encode()), f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return *_pieces(path, _read(path)), ""


def _pieces(path: Path, data: bytes) -> tuple[str, int]:
    try:
        model = msgspec.json.decode(data, type=_Tokenizer).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(path, f"not a tokenizer.json ({error}); download it again") from None
    return model.type, len(model.vocab)


def _read(path: Path, what: str = "a tokenizer") -> bytes:
    with opened(path, what) as (file, facts):
        if facts.size > MAX_BYTES:
            raise refusal(path, f"{facts.size:,} bytes are more than any tokenizer has")
        return file.read()


def _file(path: Path) -> Path:
    """The file in which the vocabulary lies."""
    if not is_within_weights(path):
        return path
    source = layout_at(path)[0]
    info = spiece_of(source)
    return source.path if info is None else info.file


def _without_prefix(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(ggml.PREFIX): value
        for name, value in table.items()
        if name.startswith(ggml.PREFIX)
    }
