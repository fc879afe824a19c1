"""A vocabulary reads prompts the same in every form in which files hold it, fits its encoder, or is refused."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from engine.checkpoints.locate import locate
from engine.checkpoints.source import open_source
from engine.checkpoints.vocabulary.ggml import gguf_fields, of_gguf
from engine.checkpoints.vocabulary.held import (
    check_fits,
    digest_of,
    holds_vocabulary,
    tokenizer_json,
    vocabulary_in,
)
from engine.checkpoints.vocabulary.pieces import (
    CONTROL,
    MAX_PIECE_BYTES,
    MAX_PIECES,
    NORMAL,
    UNKNOWN,
    UNUSED,
    Piece,
    Vocabulary,
    checked,
)
from engine.checkpoints.vocabulary.sentencepiece_model import MAX_MODEL_BYTES, of_sentencepiece
from engine.checkpoints.vocabulary.sentencepiece_model import sentencepiece as as_spiece
from engine.checkpoints.vocabulary.unigram import as_tokenizer, of_tokenizer_json
from engine.errors import CheckpointError
from engine.prompt import clean_prompt, cut_of, load_tokenizer
from tests.weights.vocabularies import trained, write_tokenizer_json

MICRO = locate("tokenizer", "builtin:micro")
ENCODER = locate("text_encoder", "builtin:micro")
SPIECE = trained()

_WORDS = [
    "a", "small", "red", "circle", "Bär", "Straße", "déjà", "一个红色的圆圈", "，然后", "красный", "круг", "😀", "🐻‍❄️",
    "👩‍👩‍👧", "𓀀𓀁", "ａｂｃ", "１２", "ﬁne", "ﷺ", "①", "10²", "zebra", "don't", "...", "<x>", "&amp;", "İ", "한글",
]  # fmt: skip
_GAPS = [
    "",
    " ",
    "  ",
    "\t",
    "\n",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\x00",
    "\x07",
    "\x1b",
    "\u202e",
]
_ALONE = [
    "",
    " ",
    "a",
    "  a   b ",
    "\u200b",
    "\u200ba\u200b",
    "a" * 3000,
    "圆 " * 600,
    "a\x01\x02b",
]


def prompts() -> list[str]:
    draw = random.Random(5)
    made = [
        "".join(draw.choice(_WORDS) + draw.choice(_GAPS) for _ in range(draw.randint(1, 40)))
        for _ in range(400)
    ]
    return [*_ALONE, *_WORDS, *made]


def ids(text: str, prompt: str) -> list[int]:
    return Tokenizer.from_str(text).encode(prompt).ids


@pytest.mark.parametrize(
    ("normalisation", "falls_back", "strips"),
    [
        ("nmt_nfkc", True, True),
        ("nmt_nfkc", False, False),
        ("nmt_nfkc_cf", True, False),
        ("nmt_nfkc_cf", False, True),
        ("identity", True, True),
        ("identity", False, False),
    ],
)
def test_texts_are_read_as_sentencepiece_reads_them(
    falls_back: bool, strips: bool, normalisation: str
) -> None:
    """Cleaned or not. Marks that combine with a character which is normalised are left aside: there the two
    libraries differ."""
    model = trained(
        byte_fallback=falls_back,
        remove_extra_whitespaces=strips,
        normalization_rule_name=normalisation,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = Tokenizer.from_str(as_tokenizer(of_sentencepiece(model)))
    for prompt in prompts():
        for text in (prompt, clean_prompt(prompt)):
            assert ours.encode(text).ids == [*theirs.encode(text), 1], ascii(text)


def test_prompts_are_read_as_by_the_tokenizer_json_it_was_made_from(tmp_path: Path) -> None:
    """Of the published form, through each form and back; but a space of no width at an end is none, as for
    SentencePiece. Special pieces that a prompt names are found."""
    path = write_tokenizer_json(tmp_path, SPIECE)
    found = of_tokenizer_json(path)
    assert found.lost == ()
    assert of_sentencepiece(as_spiece(found)) == found
    theirs = load_tokenizer(path)
    ours = Tokenizer.from_str(as_tokenizer(found))
    ours.enable_truncation(512)
    for prompt in [*prompts(), "a </s> b", "a <pad> b <unk>", "a <extra> b"]:
        text = clean_prompt(prompt)
        if text == text.strip("\u200b\u202e"):
            assert ours.encode(text).ids == theirs(prompt), ascii(prompt)


def test_that_of_the_micro_model_reads_as_it_does_but_for_its_normalisation(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(MICRO.read_text()) | {"normalizer": None}))
    ours, theirs = as_tokenizer(of_tokenizer_json(path)), Tokenizer.from_file(str(path))
    for prompt in ("a large red circle moves left", "a blue zebra", "", "a star 😀 above"):
        assert ids(ours, prompt) == theirs.encode(prompt).ids


def encoder(path: Path, model: bytes | torch.Tensor) -> Path:
    """A ComfyUI encoder with this SentencePiece model inside."""
    held = (
        torch.frombuffer(bytearray(model), dtype=torch.uint8) if isinstance(model, bytes) else model
    )
    save_file(load_file(ENCODER) | {"spiece_model": held}, path)
    return path


def gguf_encoder(path: Path, fields: Mapping[str, object]) -> Path:
    writer = gguf.GGUFWriter(path, "t5encoder")
    for name, value in fields.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.add_tensor("enc.output_norm.weight", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_of_every_kind_read_prompts_alike(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(SPIECE)
    paths = [
        encoder(tmp_path / "t5.safetensors", SPIECE),
        gguf_encoder(tmp_path / "t5.gguf", gguf_fields(of_sentencepiece(SPIECE))),
        tmp_path / "spiece.model",
    ]
    texts = {tokenizer_json(path) for path in paths}
    assert len(texts) == 1
    assert len({digest_of(path) for path in paths}) == 1
    long = "一个 small red 😀 circle " * 100
    theirs = load_tokenizer(write_tokenizer_json(tmp_path, SPIECE))
    for path in paths:
        assert load_tokenizer(path)(long) == theirs(long)
        assert cut_of(path, long) == cut_of(tmp_path / "tokenizer.json", long) != None  # noqa: E711


def test_another_vocabulary_has_another_digest(tmp_path: Path) -> None:
    """Wherever it differs: a sample of the file's numbers would not see it."""
    found = of_sentencepiece(SPIECE)
    others = [
        Vocabulary(
            (*found.pieces[:-1], found.pieces[-1]._replace(score=-1.5)), found.charsmap, True
        ),
        Vocabulary(
            (*found.pieces[:-1], found.pieces[-1]._replace(text="other")), found.charsmap, True
        ),
        Vocabulary(found.pieces, found.charsmap, True, strips=False),
        Vocabulary(found.pieces, b"", True),
        Vocabulary(found.pieces, found.charsmap, False),
    ]
    digests = {
        digest_of(encoder(tmp_path / f"{number}.safetensors", as_spiece(other)))
        for number, other in enumerate([found, *others])
    }
    assert len(digests) == 6
    path = encoder(tmp_path / "0.safetensors", as_spiece(others[0]))
    assert digest_of(path) in digests
    first = digest_of(path)
    encoder(path, as_spiece(others[1]))
    assert digest_of(path) != first


def test_pieces_for_bytes_that_are_not_used_say_so_in_a_gguf_file(tmp_path: Path) -> None:
    """As in the published tokenizer.json; others read a GGUF file's unknown characters by them, and fail unless all of
    them say that they are for bytes."""
    table = json.loads(write_tokenizer_json(tmp_path, SPIECE).read_text())
    table["model"]["byte_fallback"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    found = of_tokenizer_json(tmp_path / "tokenizer.json")
    fields = gguf_fields(found)
    assert fields["token_type"].count(6) == 256
    text = tokenizer_json(gguf_encoder(tmp_path / "t5.gguf", fields))
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for prompt in ("a 𓀀 circle", "zebra"):
        assert ids(text, prompt) == theirs.encode(prompt).ids == ids(as_tokenizer(found), prompt)


def test_padding_that_llama_cpp_puts_after_the_pieces_is_never_read(tmp_path: Path) -> None:
    found = of_sentencepiece(SPIECE)
    padded = (*found.pieces, *(Piece(f"[PAD{n}]", -1000.0, UNUSED) for n in range(5)))
    fields = gguf_fields(Vocabulary(padded, found.charsmap, True))
    text = tokenizer_json(gguf_encoder(tmp_path / "t5.gguf", fields))
    for prompt in ("a small [PAD3] circle", "Ⅳ 𓀀"):
        assert ids(text, prompt) == ids(as_tokenizer(found), prompt)


# Whether it is that of the encoder


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


def test_one_inside_must_fit_too(tmp_path: Path) -> None:
    num_pieces = len(of_sentencepiece(SPIECE).pieces)
    path = encoder(tmp_path / "t5.safetensors", SPIECE)
    check_fits(path, num_pieces)
    with pytest.raises(CheckpointError, match=f"has {num_pieces} Unigram pieces.*138 rows"):
        check_fits(path, 138)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 3}'])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        check_fits(tmp_path / "tokenizer.json", 138)


def test_an_encoder_without_one_is_told(tmp_path: Path) -> None:
    assert not holds_vocabulary(open_source(ENCODER))
    with pytest.raises(CheckpointError, match="holds no vocabulary; name a tokenizer"):
        check_fits(ENCODER, 138)


# Of strangers

FIRST = (Piece("<pad>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL), Piece("<unk>", 0.0, UNKNOWN))


def pieces_and(*more: Piece) -> Vocabulary:
    return Vocabulary((*FIRST, Piece("▁", -1.0, NORMAL), *more))


@pytest.mark.parametrize(
    ("vocabulary", "reason"),
    [
        (Vocabulary(()), "pieces 0, 1 and 2 are not"),
        (Vocabulary((*FIRST[:2], Piece("a", -1.0, NORMAL))), "pieces 0, 1 and 2 are not"),
        (Vocabulary((FIRST[2], *FIRST[:2])), "pieces 0, 1 and 2 are not"),
        (pieces_and(Piece("more", 0.0, UNKNOWN)), "pieces 0, 1 and 2 are not"),
        (pieces_and(Piece("▁", -2.0, NORMAL)), "'▁' is there twice"),
        (pieces_and(Piece("", -2.0, NORMAL)), "a piece is empty"),
        (pieces_and(Piece("a", math.nan, NORMAL)), "is no number"),
        (pieces_and(Piece("a", -math.inf, NORMAL)), "is no number"),
        (pieces_and(Piece("a", -1.0, 9)), "unknown kind 9"),
        (pieces_and(Piece("a" * (MAX_PIECE_BYTES + 1), -1.0, NORMAL)), "longer"),
        (Vocabulary((*FIRST,) * (MAX_PIECES // 3 + 1)), "more than 524,288 pieces"),
        (Vocabulary(FIRST, byte_fallback=True), "no piece for each byte"),
    ],
)
def test_what_is_no_vocabulary_is_refused(vocabulary: Vocabulary, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        checked(vocabulary)


def charsmap(units: list[int], replacements: bytes = b"a\0") -> bytes:
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + replacements


LEAF, VALUE = 1 << 8, 1 << 31


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"abc", "ends in the middle"),
        (struct.pack("<I", 1 << 30), "ends in the middle"),
        (struct.pack("<I", 0), "ends in the middle"),
        (charsmap([0] * 256, b"\xff\0"), "no UTF-8"),
        (charsmap([0] * 255), "leads out of itself"),
        (charsmap([300 << 10, *[0] * 255]), "leads out of itself"),
        (charsmap([LEAF | 1 << 10, VALUE | 7, *[VALUE] * 254]), "leads out of itself"),
        (
            charsmap([LEAF | 1 << 10, VALUE | 1, *[VALUE] * 254], "é".encode()),
            "leads out of itself",
        ),
        (charsmap([VALUE] * 256, b"a" * 2000), "makes a text of one character"),
    ],
)
def test_a_table_of_characters_that_leads_out_of_itself_is_refused(
    table: bytes, reason: str
) -> None:
    """The library would end the process' thread by it, when a prompt is read."""
    with pytest.raises(ValueError, match=reason):
        checked(Vocabulary(pieces_and().pieces, table))
    checked(Vocabulary(pieces_and().pieces, charsmap([LEAF | 1 << 10, *[VALUE] * 255])))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "llama"}, "model is llama, not t5"),
        ({"model": "gpt2"}, "model is gpt2, not t5"),
        ({"tokens": None}, "tokens is missing"),
        ({"scores": None}, "scores is missing"),
        ({"token_type": None}, "token_type is missing"),
        ({"scores": [0.0, 0.0]}, "4 pieces with 2 scores and 4 kinds"),
        ({"scores": [0.0, 0.0, 0.0, math.nan]}, "is no number"),
        ({"scores": ["a"] * 4}, "no number for a score"),
        ({"tokens": [1, 2, 3, 4]}, "no list of texts"),
        ({"precompiled_charsmap": b"abc"}, "ends in the middle"),
        ({"eos_token_id": 2}, "eos_token_id is 2, not 1"),
        ({"add_bos_token": True}, "add_bos_token is true, not false"),
        ({"add_space_prefix": False}, "add_space_prefix is false, not true"),
    ],
)
def test_what_is_none_in_a_gguf_file_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    fields = {
        name: value
        for name, value in (gguf_fields(pieces_and()) | change).items()
        if value is not None
    }
    path = gguf_encoder(tmp_path / "t5.gguf", fields)
    assert holds_vocabulary(open_source(path))
    with pytest.raises(CheckpointError, match=reason) as caught:
        check_fits(path, 4)
    assert "\n" not in str(caught.value)
    assert "--set components.text_encoder.tokenizer=" in str(caught.value)


def test_a_count_that_the_file_has_not_takes_no_memory(tmp_path: Path) -> None:
    path = gguf_encoder(tmp_path / "t5.gguf", gguf_fields(pieces_and()))
    whole = path.read_bytes()
    place = whole.index(b"tokenizer.ggml.scores") + len(b"tokenizer.ggml.scores") + 8
    for count in (5, 1 << 19, 1 << 40, 1 << 63):
        path.write_bytes(whole[:place] + struct.pack("<Q", count) + whole[place + 8 :])
        with pytest.raises(CheckpointError):
            check_fits(path, 4)


def test_a_model_of_more_pieces_than_any_is_refused_as_soon_as_it_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.checkpoints.vocabulary.pieces.MAX_PIECES", 1000)
    path = encoder(tmp_path / "t5.safetensors", b"\x0a\x00" * 1001 + b"no model")
    with pytest.raises(CheckpointError, match="more than 1,000 pieces"):
        vocabulary_in(open_source(path))


def spiece(**trainer: int) -> bytes:
    """The model of pieces_and() with another field of its trainer's part."""
    return as_spiece(pieces_and()) + b"\x12\x02" + bytes([trainer["field"] << 3, trainer["value"]])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"pieces", "no SentencePiece model"),
        (SPIECE[:5000], "it ends in the middle"),
        (b"\x0a\xff\xff\xff\xff\x7f", "it ends in the middle"),
        (b"\x0a\x06\x0a\x01\xff\x10\x01\x18", "no SentencePiece model"),
        (spiece(field=3, value=2), "not of the kind Unigram"),
        (as_spiece(pieces_and()) + b"\x32\x00", "it has a part with the number 6"),
        (as_spiece(pieces_and()) + b"\x1a\x02\x18\x00", "does not write a space before"),
        (as_spiece(pieces_and()) + b"\x1a\x02\x38\x01", "by the rule 7"),
        (b"\x22\x01a" * (MAX_MODEL_BYTES // 3 + 1), "more than any"),
        (torch.ones(4, dtype=torch.float32), "spiece_model is F32"),
        (torch.ones(2, 2, dtype=torch.uint8), "not bytes in a row"),
    ],
)
def test_what_is_no_sentencepiece_model_is_refused_in_one_line(
    tmp_path: Path, model: bytes | torch.Tensor, reason: str
) -> None:
    path = encoder(tmp_path / "t5.safetensors", model)
    with pytest.raises(CheckpointError, match=reason) as caught:
        vocabulary_in(open_source(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_stretch_of_a_model_breaks_its_reader() -> None:
    draw = random.Random(7)
    for _ in range(300):
        data = bytearray(SPIECE if draw.random() < 0.2 else as_spiece(pieces_and()))
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            found = of_sentencepiece(bytes(data[: draw.randint(0, len(data))]))
        except ValueError:
            continue
        Tokenizer.from_str(as_tokenizer(found)).encode("a small ａ circle 😀")


def test_gguf_fields_there_and_back() -> None:
    found = of_sentencepiece(SPIECE)
    fields = gguf_fields(found)
    said = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in fields.items()
        if isinstance(value, (str, int))
    }
    arrays = {name: value for name, value in fields.items() if isinstance(value, (list, bytes))}
    assert of_gguf(said, arrays) == found
