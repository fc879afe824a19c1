"""Whether a tokenizer is that of a text encoder. Torch-free.

The rows of an encoder's embedding are numbered by the pieces of its tokenizer: another model's reads every prompt as
other words, without that anything fails.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from engine.checkpoints.formats.reading import facts_at, opened, refusal
from engine.checkpoints.formats.table import Facts

MAX_TOKENIZER_BYTES = 64 << 20
# An embedding has a few more rows than pieces where it was rounded up for a GPU: 256,384 instead of some 256,300.
SPARE_ROWS = 1 / 200
KIND = "Unigram"


class _Model(msgspec.Struct):
    type: str = ""
    vocab: list[msgspec.Raw] | dict[str, msgspec.Raw] = []


class _Tokenizer(msgspec.Struct):
    model: _Model


def check_fits(tokenizer: Path, num_rows: int) -> None:
    """Raises CheckpointError unless a tokenizer.json is of UMT5's kind, with as many pieces as an encoder with
    `num_rows` rows has."""
    kind, num_pieces = _pieces(tokenizer, facts_at(tokenizer))
    if kind == KIND and num_rows * (1 - SPARE_ROWS) <= num_pieces <= num_rows:
        return
    raise refusal(
        tokenizer,
        f"has {num_pieces:,} {kind or 'unknown'} pieces, but the text encoder has {num_rows:,} rows, numbered "
        f"by {KIND} pieces: it is another model's; name the right one with "
        "--set components.text_encoder.tokenizer=umt5-xxl, or a path",
    )


@lru_cache(maxsize=8)
def _pieces(tokenizer: Path, facts: Facts) -> tuple[str, int]:
    """(kind, number of pieces); facts: of the file as it is now."""
    if facts.size > MAX_TOKENIZER_BYTES:
        raise refusal(tokenizer, f"{facts.size:,} bytes are more than any tokenizer has")
    with opened(tokenizer, "a tokenizer") as (file, _):
        data = file.read()
    try:
        model = msgspec.json.decode(data, type=_Tokenizer).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(tokenizer, f"not a tokenizer.json ({error}); download it again") from None
    return model.type, len(model.vocab)
