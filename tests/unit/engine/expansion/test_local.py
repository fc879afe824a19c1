"""A language model of this machine: a tiny one, made here, of the layout that Transformers saves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.errors import CheckpointError, ComponentError, RunCancelled
from engine.expansion.answer import Asked
from engine.expansion.local import describe, load, settle
from engine.reports import Control
from presets.spec.components import PromptExpanderSpec
from store.index.index import Index, open_index
from store.paths import prepare
from tests.oracles.later import transformers

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
ASKED = Asked("Say it longer.", "a fox", temperature=1.0, top_p=0.9, max_tokens=12, seed=3)


def save_model(folder: Path, *, chat: str | None = CHAT, seed: int = 0) -> None:
    """Two layers of random weights, and a token for each printable character."""
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: number for number, token in enumerate(["<eos>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>"
    )
    fast.chat_template = chat
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128, eos_token_id=0,
        bos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm") / "tiny"
    save_model(folder)
    return folder


@pytest.fixture
def index(tmp_path: Path):
    prepare(tmp_path)
    with open_index(tmp_path) as opened:
        yield opened


def spec_of(folder: Path | str, **more: object) -> PromptExpanderSpec:
    told = {"name": "transformers", "checkpoint": str(folder), "device": "cpu", "dtype": "fp32"}
    return PromptExpanderSpec(**{**told, **more})  # type: ignore[arg-type]


def test_a_seed_writes_the_same_again_and_another_one_something_else(
    folder: Path, index: Index
) -> None:
    spec = spec_of(folder)
    chat = load(spec, describe(spec, index))
    before = torch.random.get_rng_state()
    first = chat.expand(ASKED)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.model == "tiny"
    assert len(first.raw) <= 12
    assert chat.expand(ASKED) == first
    others = [chat.expand(Asked("x", "y", 1.0, 0.9, 12, seed)).raw for seed in range(4)]
    assert len(set(others)) > 1


def test_without_temperature_the_likeliest_is_taken(folder: Path, index: Index) -> None:
    spec = spec_of(folder)
    chat = load(spec, describe(spec, index))
    likeliest = {chat.expand(Asked("x", "y", 0.0, 0.9, 8, seed)).raw for seed in range(3)}
    assert len(likeliest) == 1


def test_an_answer_that_has_no_room_is_cut_and_a_question_refused(
    folder: Path, index: Index
) -> None:
    spec = spec_of(folder)
    chat = load(spec, describe(spec, index))
    chat.model.generation_config.eos_token_id = None
    answer = chat.expand(Asked("x", "y", 1.0, 1.0, 4, 0))
    assert answer.is_cut
    with pytest.raises(ComponentError, match=r"have \d+ tokens, tiny reads 128"):
        chat.expand(Asked("x" * 200, "y", 1.0, 1.0, 4, 0))


def test_a_model_that_knows_no_system_is_told_by_the_user(tmp_path: Path, index: Index) -> None:
    save_model(tmp_path / "plain", chat=NO_SYSTEM)
    spec = spec_of(tmp_path / "plain")
    assert load(spec, describe(spec, index)).expand(ASKED).model == "plain"


def test_it_stops_where_the_run_does(folder: Path, index: Index) -> None:
    def check() -> None:
        raise RunCancelled

    spec = spec_of(folder)
    chat = load(spec, describe(spec, index)).watched(Control(lambda event: None, check))
    with pytest.raises(RunCancelled):
        chat.expand(ASKED)


def test_what_it_is_depends_on_its_files(folder: Path, tmp_path: Path, index: Index) -> None:
    about = describe(spec_of(folder), index)
    save_model(tmp_path / "same")
    save_model(tmp_path / "other", seed=1)
    save_model(tmp_path / "chat", chat=CHAT + " ")
    identities = [
        describe(spec_of(tmp_path / name), index).identity for name in ("same", "other", "chat")
    ]
    assert identities[0] == about.identity
    assert about.identity not in identities[1:]
    assert describe(spec_of(folder, dtype="bf16"), index).identity != about.identity
    assert about.num_bytes > 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), CheckpointError, "no folder with a config.json"),
        (lambda f: (f / "model.safetensors").rename(f / "m.bin"), CheckpointError, "no weights in safetensors"),
        (lambda f: (f / "config.json").write_text("{"), CheckpointError, "cannot be used as a language model"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(
    change, error, message, tmp_path: Path, index: Index
) -> None:
    folder = tmp_path / "llm"
    save_model(folder)
    change(folder)
    spec = spec_of(folder)
    with pytest.raises(error, match=message) as caught:
        load(spec, describe(spec, index))
    assert "\n" not in str(caught.value)


def test_a_model_that_was_not_taught_to_chat_is_refused(tmp_path: Path, index: Index) -> None:
    save_model(tmp_path / "base", chat=None)
    spec = spec_of(tmp_path / "base")
    with pytest.raises(ComponentError, match="has no chat template"):
        load(spec, describe(spec, index))


def test_it_takes_no_address(folder: Path, index: Index) -> None:
    with pytest.raises(ComponentError, match="takes no url, key or options"):
        describe(spec_of(folder, url="http://h"), index)


def test_its_folder_is_named_by_an_absolute_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODIFF_MODELS", str(folder.parent))
    assert settle(spec_of("tiny"), list).checkpoint == str(folder)
    with pytest.raises(CheckpointError, match="is empty"):
        settle(spec_of(""), list)
