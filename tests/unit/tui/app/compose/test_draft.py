"""The form as data: the command line's rules and words, every field, what differs, and the numbers' grids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.errors import CheckpointError, together
from presets.errors import PresetError
from presets.fields.listing import fields
from presets.library.listing import PresetInfo
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from presets.spec.sections import SECTIONS
from tui.app.compose.draft import (
    FIELDS,
    Draft,
    changes,
    check,
    draft_of,
    edited,
    field_key,
    line_of,
    problems,
    refusals,
    text_of,
    value_text,
)
from tui.app.compose.list_edits import Unmended, added, moved, removed
from tui.app.compose.section_rows import (
    about_preset,
    keys_of,
    rows,
    section_of,
    stepped,
    summary,
)
from tui.app.form_words import form_words


@pytest.fixture
def draft() -> Draft:
    return Draft("micro", load_preset("micro"))


def typed(draft: Draft, **texts: str) -> Draft:
    """With texts by key, `__` in a name being a dot."""
    for name, text in texts.items():
        draft = draft.typed(name.replace("__", "."), text)
    return draft


def row_of(draft: Draft, key: str, known=None):
    found = rows(section_of(key), draft, check(draft), known or {})
    return next(row for row in found if row.key == key)


def test_every_field_is_in_one_section():
    keys = [key for section in SECTIONS for key in keys_of(section)]
    assert sorted(keys) == sorted(field.key for field in fields(RunSpec))


def test_every_value_is_typed_as_it_is_shown(draft):
    spec = load_preset(
        "micro",
        [
            'extensions=[{name = "x", options = {a = 1, b = "ü\\u007f", c = true}}]',
            "scheduler.sigmas=[1.0, 0.5, 1e-3]",
            'output.kinds=["video", "latents"]',
            "guidance.scale=7",
        ],
        values={"prompt": 'say "hi"\nand = 1'},
    )
    again = Draft("micro", draft.base, {key: value_text(spec, key) for key in FIELDS})
    assert check(again).spec == spec


def test_an_untouched_draft_is_its_preset(draft):
    checked = check(draft)
    assert checked.spec == draft.base
    assert not checked.errors
    assert not checked.changed


@pytest.mark.parametrize(
    "override",
    [
        "scheduler.steps=abc",
        "scheduler.steps=",
        "scheduler.steps=1001",
        "width=65",
        "frames=18",
        "scheduler.name=unpic",
        "components.denoiser.device=gpu",
        "scheduler.sigmas=[0.5, 0.6]",
        "extensions=[{name = 1}]",
        "components.vae.tile_size=8",
        "seed=1\nfps=3",
    ],
)
def test_a_wrong_value_is_refused_in_the_words_of_the_command_line(draft, override):
    key, _, text = override.partition("=")
    with pytest.raises(PresetError) as told:
        load_preset("micro", [override])
    checked = check(draft.typed(key, text))
    assert checked.errors == {key: form_words(str(told.value))}
    assert checked.spec is None


def test_all_wrong_fields_are_told_also_where_rules_between_keys_are_broken(draft):
    checked = check(
        typed(
            draft,
            width="65",
            scheduler__steps="abc",
            scheduler__name="euler",
            scheduler__grid="diffusers",
            components__vae__tile_size="8",
            seed="7",
        )
    )
    assert list(checked.errors) == [
        "components.vae.tile_size",
        "width",
        "scheduler.steps",
        "scheduler.grid",
    ]
    assert checked.shown.seed == 7  # what is right is there all the same


def test_fields_that_are_wrong_alone_may_be_right_together(draft):
    base = load_preset("micro", ["components.vae.tile_size=64", "components.vae.tile_overlap=32"])
    both = typed(
        Draft("x", base), components__vae__tile_overlap="128", components__vae__tile_size="256"
    )
    assert check(both).spec is not None
    assert "components.vae.tile_overlap" in check(both.without("components.vae.tile_size")).errors


def test_a_text_is_taken_as_it_is(draft):
    checked = check(typed(draft, prompt='"quoted" = [1]', components__vae__checkpoint='"a"'))
    assert checked.spec.prompt == '"quoted" = [1]'
    assert checked.spec.components.vae.checkpoint == '"a"'


def test_typing_what_the_preset_says_is_no_change(draft):
    assert typed(draft, seed="1", prompt="x").typed("seed", "0").edits == {"prompt": "x"}
    spelled = check(draft.typed("guidance.scale", "2.50"))
    assert spelled.spec == draft.base
    assert not spelled.changed


def test_sigmas_decide_the_steps_that_nobody_typed(draft):
    draft = draft.typed("scheduler.sigmas", "[1.0, 0.5]")
    checked = check(draft)
    assert text_of(draft, checked, "scheduler.steps") == "2"
    assert checked.changed == ("scheduler.steps", "scheduler.sigmas")


def test_undoing_fields(draft):
    changed = typed(draft, seed="1", width="65", prompt="x")
    assert changed.without("width", "seed").edits == {"prompt": "x"}


def test_changes_are_told_with_old_and_new(draft):
    draft = typed(draft, seed="7", width="65")
    found = {c.key: (c.old, c.new) for c in changes(draft, check(draft))}
    assert found == {"width": ("64", "65"), "seed": ("0", "7")}


def test_a_run_is_its_preset_and_what_differs(draft):
    spec = load_preset("micro", ["seed=9", "scheduler.sigmas=[1.0, 0.5]"])
    made = draft_of(spec, "micro", draft.base)
    assert made.preset == "micro"
    assert set(made.edits) == {"seed", "scheduler.sigmas", "scheduler.steps"}
    assert check(made).spec == spec


def test_a_run_whose_preset_is_gone_is_its_own_base(draft):
    made = draft_of(draft.base, "gone", None)
    assert (made.preset, made.base, dict(made.edits)) == ("", draft.base, {})


@pytest.mark.parametrize(
    ("key", "kind", "choices"),
    [
        ("scheduler.name", "choice", ("dpm++", "euler", "sde-dpm++", "unipc")),
        ("output.overwrite", "switch", ("false", "true")),
        ("output.kinds", "list", ("frames", "latents", "video")),
        ("scheduler.sigmas", "list", ()),
        ("scheduler.shift", "number", ()),
        ("width", "number", ()),
        ("output.path", "path", ()),
        ("components.vae.checkpoint", "path", ()),
        ("components.vae.name", "text", ()),
        ("components.vae.device", "text", ()),
    ],
)
def test_the_kind_of_a_field(draft, key, kind, choices):
    row = row_of(draft, key)
    assert (row.kind, row.choices) == (kind, choices)


def test_names_that_are_known_are_choices_and_those_of_models_are_suggested(draft):
    known = {
        "component:vae": ("wan-vae", "other"),
        "model:vae": ("builtin:micro", "wan2.1-vae"),
    }
    assert row_of(draft, "components.vae.name", known).choices == ("wan-vae", "other")
    row = row_of(draft, "components.vae.checkpoint", known)
    assert (row.choices, row.suggestions) == ((), ("builtin:micro", "wan2.1-vae"))
    strange = draft.typed("components.vae.name", "mine")
    assert "mine" in row_of(strange, "components.vae.name", known).choices


def test_a_row_says_what_differs_and_what_is_wrong(draft):
    row = row_of(draft.typed("width", "65"), "width")
    assert row.is_changed
    assert (row.text, row.base_text) == ("65", "64")
    assert row.error.startswith("width: expected a multiple of 16")


@pytest.mark.parametrize(
    ("key", "text", "more", "less"),
    [
        ("width", "64", "80", "48"),
        ("width", "4096", "4096", "4080"),
        ("width", "16", "32", "0"),
        ("frames", "17", "21", "13"),
        ("frames", "1", "5", "1"),
        ("seed", "0", "1", "0"),
        ("seed", str(2**64 - 1), str(2**64 - 1), str(2**64 - 2)),
        ("guidance.scale", "2.5", "2.5", "2.5"),
        ("scheduler.steps", "abc", "abc", "abc"),
        ("guidance.scale", "nan", "nan", "nan"),
        ("width", "9" * 400, "4096", "4096"),
        ("seed", "-" + "9" * 400, "0", "0"),
    ],
)
def test_a_step_more_or_less_stays_on_the_grid(key, text, more, less):
    field = FIELDS[key]
    assert (stepped(field, text, 1), stepped(field, text, -1)) == (more, less)


def test_every_section_is_told_in_a_few_words(draft):
    told = {section.name: summary(section, draft, draft.base) for section in SECTIONS}
    assert told["denoiser"] == "builtin:micro cpu fp32"
    assert told["size"] == "64x64x17, seed 0"
    assert all(told.values())


def test_what_is_said_of_a_hostile_prompt_is_harmless(draft):
    spec = check(draft.typed("prompt", "a\x1b[2Jb\nc")).spec
    assert "\x1b" not in summary(SECTIONS[1], draft, spec)


def test_why_a_run_is_refused_is_told_where_the_fields_are_right(draft):
    absent = CheckpointError("not there", key="components.vae.checkpoint")
    error = together([absent], "`modiff models where NAME` lists others")
    refused = refusals(error, str(error))
    right = problems(check(draft), refused, "strange words")
    assert [(p.key, p.is_error) for p in right] == [
        ("components.vae.checkpoint", True),
        ("", False),
        ("prompt", False),
    ]
    wrong = problems(check(draft.typed("seed", "-1")), refused, "")
    assert [p.key for p in wrong] == ["seed"]


def test_the_field_that_an_error_is_about():
    assert field_key("extensions[0].name") == "extensions"
    assert field_key("components.vae") == "components.vae.name"
    assert field_key("") == ""
    error = CheckpointError("/models/frames/seed.safetensors is damaged")
    assert refusals(error, str(error)) == (("", str(error)),)


def test_the_line_of_a_key_in_a_file():
    text = 'extends = "micro"\n\n[scheduler]  # mine\nsteps = 0\n[components.vae]\n name = "x"\n'
    assert line_of(text, "extends") == 0
    assert line_of(text, "scheduler.steps") == 3
    assert line_of(text, "components.vae.name") == 5
    assert line_of(text, "seed") == 0


def test_options_of_a_component_are_typed_as_a_table(draft):
    row = row_of(draft, "components.vae.options")
    assert (row.kind, row.text, row.is_changed) == ("text", "{}", False)
    changed = typed(draft, components__vae__options="{a = 1}")
    assert check(changed).spec.components.vae.options == {"a": 1}
    spec = check(changed).spec
    emptied = typed(Draft("", spec), components__vae__options="{}")
    assert check(emptied).spec.components.vae.options == {}
    wrong = typed(draft, components__vae__options="a = 1")
    assert check(wrong).errors == {
        "components.vae.options": 'components.vae.options: expected a table, got "a = 1"'
    }


def test_guidance_is_typed_as_a_number_or_as_toml(draft):
    key = "guidance.scale"
    assert (row_of(draft, key).kind, row_of(draft, key).text) == ("number", "2.5")
    for text, told in (
        ("4", "scale 4"),
        ("[{from = 0, to = 0.4, scale = 6}]", "scale 6 in 0–0.4"),
        ("[" + "6, " * 8 + "1, " * 11 + "1]", "scale 6×8 1×12"),
    ):
        changed = typed(draft, guidance__scale=text)
        checked = check(changed)
        assert row_of(changed, key).text == text
        assert row_of(changed, key).kind == ("text" if text.startswith("[") else "number")
        assert summary(section_of(key), changed, checked.spec) == told
        again = draft_of(checked.spec, "micro", draft.base)
        assert check(again).spec == checked.spec
        assert check(draft.typed(key, value_text(checked.spec, key))).spec == checked.spec
    wrong = typed(draft, guidance__scale="[{from = 0, to = 2, scale = 6}]")
    assert check(wrong).errors == {
        key: "guidance.scale[0].to: expected a finite number >= 0 and <= 1, got 2"
    }


def test_the_line_of_a_wrong_piece():
    inline = "[scheduler]\nsteps = 3\n[guidance]\nscale = [{from = 0, to = 2, scale = 6}]\n"
    assert line_of(inline, "guidance.scale[0].to") == 3
    tables = "seed = 1\n[[guidance.scale]]\nfrom = 0\nto = 2\n"
    assert line_of(tables, "guidance.scale[0].to") == 3


CACHE = '{name = "teacache", options = {threshold = 0.2}}'


@pytest.fixture
def listed() -> Draft:
    """With two extensions."""
    return Draft(
        "x", load_preset("micro", [f'extensions=[{CACHE}, {{name = "skip-layer-guidance"}}]'])
    )


def extensions_of(draft: Draft):
    return [each.name for each in check(draft).shown.extensions]


def test_items_of_a_list_have_rows_with_the_limits_and_help_of_their_options(listed):
    found = {row.key: row for row in rows(section_of("extensions"), listed, check(listed), {})}
    assert [row.label for row in found.values()] == [
        *("1 teacache", " threshold", " start", " end"),
        *("2 skip-layer-guidance", " blocks", " start", " end"),
    ]
    row = found["extensions[0].options.threshold"]
    assert (row.kind, row.text, row.base_text) == ("number", "0.2", "0.2")
    assert row.field.expected == "a finite number >= 0 and <= 10"
    assert found["extensions[1].options.blocks"].text == "10"  # its default


def test_options_are_typed_and_refused_by_their_own_limits(listed):
    key = "extensions[0].options.threshold"
    changed = listed.typed(key, "0.3")
    assert check(changed).spec.extensions[0].options == {"threshold": 0.3}
    assert check(changed).changed == (key,)
    assert changes(changed, check(changed))[0].old == "0.2"
    assert changed.typed(key, "0.2") == listed == changed.without(key)
    wrong = check(listed.typed(key, "11"))
    assert wrong.errors == {key: f"{key}: expected a finite number >= 0 and <= 10, got 11"}
    assert wrong.shown.extensions[0].options == {"threshold": 0.2}
    off = check(listed.typed("extensions[0].enabled", "false"))
    assert [each.enabled for each in off.spec.extensions] == [False, True]
    assert summary(section_of(key), listed, off.spec) == "(teacache), skip-layer-guidance"


def test_items_are_added_taken_out_and_moved_with_what_was_typed_in_them(listed):
    key = "extensions[0].options.threshold"
    changed = listed.typed(key, "0.3")
    more = added(changed, check(changed), "extensions", {"name": "own"})
    assert extensions_of(more) == ["teacache", "skip-layer-guidance", "own"]
    assert set(more.edits) == {"extensions"}
    moved_down = moved(more, check(more), "extensions", 0, 1)
    assert extensions_of(moved_down) == ["skip-layer-guidance", "teacache", "own"]
    assert check(moved_down).spec.extensions[1].options == {"threshold": 0.3}
    assert moved(more, check(more), "extensions", 0, -1) == more
    typed_there = moved_down.typed("extensions[1].options.end", "0.5")
    assert check(typed_there).changed == ("extensions", "extensions[1].options.end")
    assert typed_there.without("extensions").edits == {}
    assert typed_there.before("extensions[1].options.threshold") == "0.3"
    fewer = removed(typed_there, check(typed_there), "extensions", 1)
    assert extensions_of(fewer) == ["skip-layer-guidance", "own"]
    back = removed(more, check(more), "extensions", 2).typed(key, "0.2")
    assert check(back).spec == listed.base


def test_edits_are_made_again_also_in_lists_and_options(draft, listed):
    threshold, key = "extensions[0].options.threshold", "extensions[1].options.end"
    other = listed.typed(threshold, "0.3")
    more = added(other, check(other), "extensions", {"name": "own"})
    more = more.typed(threshold, "0.2")  # that of the preset, and not of the list
    assert threshold in more.edits
    option = "components.prompt_expander.options.timeout"
    typed = more.typed(key, "0.5").typed("extensions[2].enabled", "false").typed(option, "9")
    turned = dict(reversed(typed.edits.items()))
    for edits in (typed.edits, turned):
        assert edited(Draft("x", listed.base), edits) == typed
    assert edited(draft, {"gone": "1", "seed": "7"}).edits == {"seed": "7"}


def test_a_wrong_item_is_mended_or_taken_out_before_the_others_move(listed):
    wrong = listed.typed("extensions[0].options.threshold", "x")
    for edit in (
        lambda: moved(wrong, check(wrong), "extensions", 0, 1),
        lambda: removed(wrong, check(wrong), "extensions", 1),
    ):
        with pytest.raises(Unmended, match=r"^extensions\[0\]\.options\.threshold: expected a"):
            edit()
    assert extensions_of(removed(wrong, check(wrong), "extensions", 0)) == ["skip-layer-guidance"]


def test_what_was_typed_in_an_item_that_is_gone_is_told(draft):
    stale = check(draft.typed("extensions[0].options.end", "0.5"))
    assert stale.errors == {
        "extensions[0].options.end": "extensions[0].options.end: extensions has no item 0; it is empty"
    }
    assert section_of("extensions[0].options.end").name == "extensions"


def test_an_extension_that_there_is_not_is_told_at_its_switch(listed):
    checked = check(listed)
    line = "extensions[1].name: unknown extension"
    marked = replace(checked, errors={"extensions[1].name": line})
    found = rows(section_of("extensions"), listed, marked, {})
    assert [row.key for row in found if row.error == line] == ["extensions[1].enabled"]


def test_a_preset_of_ones_own_is_told_by_its_place_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    info = PresetInfo("look", tmp_path / "presets" / "look.toml", False, "", "micro", "")
    assert "yours: ~/presets/look.toml" in about_preset("look", info, "").splitlines()


def test_a_video_is_promised_only_where_nothing_is_missing():
    assert "ctrl+r makes this video" in about_preset("look", None, "")
    told = about_preset("look", None, "", is_ready=False)
    assert "ctrl+r goes to what is missing or wrong" in told
    assert "makes this video" not in told


def test_a_preset_says_what_of_its_models_is_not_here():
    told = about_preset("look", None, "", "69.04 GB to get", is_ready=False).splitlines()
    assert "✖ 69.04 GB to get: p tells what, and how" in told
    assert "69.04" not in about_preset("look", None, "")
