"""Templates are files, ours and the user's; what was expanded holds for what it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from presets.errors import PresetError
from presets.expansion import expands, known_prompt, settled
from presets.library.loading import load_preset, override
from presets.library.saving import save_preset
from presets.library.templates import MAX_FILE_BYTES, list_templates, load_template

OURS = ("film-en", "film-zh", "i2v-en", "i2v-zh", "t2v-en", "t2v-zh")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own templates."""
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(tmp_path))
    folder = tmp_path / "templates"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", OURS)
def test_ours_say_what_they_are_for(name: str) -> None:
    template = load_template(name)
    task, _, language = name.rpartition("-")
    assert template.language == language
    assert template.task == ("i2v" if task == "i2v" else "t2v")
    assert template.description
    # words of the model's language alone, on whole paragraphs
    has_chinese = any("一" <= character <= "鿿" for character in template.instructions)
    assert has_chinese == (language == "zh")
    assert "\\" not in template.instructions


def test_the_users_lie_beside_ours_and_take_no_name_of_ours(mine: Path) -> None:
    (mine / "plain.toml").write_text('instructions = "Say it plainly."', encoding="utf-8")
    (mine / "t2v-en.toml").write_text('instructions = "Mine."', encoding="utf-8")
    (mine / ".draft.toml").write_text("", encoding="utf-8")
    assert [(each.name, each.shipped) for each in list_templates()] == [
        *((name, True) for name in OURS),
        ("plain", False),
    ]
    assert load_template("plain").instructions == "Say it plainly."
    assert load_template("t2v-en").instructions != "Mine."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instructions = ", "not valid TOML"),
        ("description = 'x'", "instructions: "),
        ("instructions = ''", "instructions: expected"),
        ("instructions = 'x'\nlanguage = 'fr'", 'language: expected "en" or "zh", got "fr"'),
        ("instructions = 'x'\nformat = 2", "format: "),
        ("instructions = 'x'\nsystem = 'y'", "system: unknown key"),
        (f"instructions = '{'x' * MAX_FILE_BYTES}'", "at most"),
    ],
)
def test_one_that_cannot_be_used_is_told_with_its_file(mine: Path, text: str, message: str) -> None:
    (mine / "bad.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PresetError) as caught:
        load_template("bad")
    assert message in str(caught.value)
    assert str(mine / "bad.toml") in str(caught.value)


def test_a_name_that_is_none_is_told_with_the_nearest() -> None:
    with pytest.raises(PresetError, match='no template is named "t2v-eng", did you mean "t2v-en"'):
        load_template("t2v-eng")


def test_a_run_keeps_the_text_of_its_template(mine: Path) -> None:
    (mine / "plain.toml").write_text('instructions = "Say it plainly."', encoding="utf-8")
    spec = load_preset("micro", ["expansion.enabled=true", "expansion.template=plain"])
    kept = settled(spec)
    assert kept.expansion.instructions == "Say it plainly."
    (mine / "plain.toml").unlink()
    assert settled(kept) == kept
    # another template is another text
    assert settled(override(kept, ["expansion.template=t2v-en"])).expansion.instructions == (
        load_template("t2v-en").instructions
    )
    # one that is off reads no file
    assert settled(override(spec, ["expansion.enabled=false"])).expansion.instructions == ""


def test_a_preset_that_names_a_template_has_not_the_text_of_the_one_it_extends(mine: Path) -> None:
    save_preset("a", load_preset("micro", ["expansion.instructions=own words"]))
    (mine.parent / "presets" / "b.toml").write_text(
        'extends = "a"\n[expansion]\ntemplate = "film-en"', encoding="utf-8"
    )
    assert load_preset("a").expansion.instructions == "own words"
    assert load_preset("b").expansion.instructions == ""


def test_a_text_is_used_as_long_as_what_it_was_made_from_stays() -> None:
    spec = load_preset("micro", ["expansion.enabled=true", "expansion.text=a red star"])
    assert not expands(spec)
    assert known_prompt(spec) == "a red star"
    assert known_prompt(override(spec, ["expansion.enabled=false"])) == spec.prompt
    assert override(spec, ["seed=1"]).expansion.text == "a red star"
    for change in ("prompt=a moon", "expansion.seed=1", "expansion.template=film-en"):
        assert expands(override(spec, [change]))
    both = override(spec, ["expansion.text=a moon at night"], values={"prompt": "a moon"})
    assert known_prompt(both) == "a moon at night"
