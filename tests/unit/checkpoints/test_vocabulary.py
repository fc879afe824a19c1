"""A tokenizer and a text encoder that do not belong together are told before anything is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.checkpoints.locate import locate
from engine.checkpoints.vocabulary.held import check_fits
from engine.errors import CheckpointError

MICRO = locate("tokenizer", "builtin:micro")


def written(folder: Path, num_pieces: int, kind: str = "Unigram") -> Path:
    path = folder / "tokenizer.json"
    pieces = [[f"piece {number}", -1.0] for number in range(num_pieces)]
    vocab = pieces if kind == "Unigram" else {text: index for index, (text, _) in enumerate(pieces)}
    path.write_text(json.dumps({"version": "1.0", "model": {"type": kind, "vocab": vocab}}))
    return path


def test_that_of_the_micro_model_fits_its_encoder() -> None:
    check_fits(MICRO, 138)


@pytest.mark.parametrize(("num_pieces", "num_rows"), [(1000, 1000), (2990, 3000)])
def test_an_encoder_may_have_a_few_rows_more(
    tmp_path: Path, num_pieces: int, num_rows: int
) -> None:
    check_fits(written(tmp_path, num_pieces), num_rows)


@pytest.mark.parametrize(
    ("num_pieces", "kind", "num_rows"),
    [(70, "Unigram", 138), (139, "Unigram", 138), (138, "BPE", 138), (0, "Unigram", 138)],
)
def test_another_models_is_refused_with_what_to_take(
    tmp_path: Path, num_pieces: int, kind: str, num_rows: int
) -> None:
    path = written(tmp_path, num_pieces, kind)
    with pytest.raises(
        CheckpointError, match=f"has {num_pieces} {kind} pieces.*138 rows"
    ) as caught:
        check_fits(path, num_rows)
    assert "--set components.text_encoder.tokenizer=" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 3}'])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        check_fits(tmp_path / "tokenizer.json", 138)
