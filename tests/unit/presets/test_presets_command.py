"""`modiff presets` through the real entry point: data on stdout, one line on stderr, exit codes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from engine.extensions import registry
from presets.encoding import decode_spec
from presets.fields.listing import fields, item_fields
from presets.library.loading import load_preset
from presets.library.paths import user_preset_dir
from presets.spec.run import RunSpec
from tui.cli.main import main

Capture = pytest.CaptureFixture[str]


def _data(capsys: Capture, *arguments: str) -> str:
    assert main(["presets", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def _refusal(capsys: Capture, *arguments: str) -> str:
    assert main(["presets", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.strip()


def test_list(capsys: Capture, user_presets: Path) -> None:
    (user_presets / "mine.toml").write_text(
        'extends = "micro"\ndescription = "my \\u001b[31mred"\n'
    )
    (user_presets / "bad.toml").write_text("sed = 1\n")
    lines = _data(capsys, "list").splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [
        ["base", "shipped"],
        ["high_quality", "shipped"],
    ]
    assert lines[-2].split()[:3] == ["bad", "user", "broken:"]
    assert lines[-1].split()[:3] == ["mine", "user", "my"]
    assert "\x1b" not in lines[-1]
    rows = {row["name"]: row for row in json.loads(_data(capsys, "list", "--json"))["presets"]}
    assert rows["mine"]["extends"] == "micro"
    assert rows["mine"]["path"] == str(user_presets / "mine.toml")
    assert rows["base"]["shipped"] is True
    assert rows["bad"]["error"].startswith("sed: unknown key")


def test_show_prints_toml_that_loads_as_the_same_run(capsys: Capture, tmp_path: Path) -> None:
    printed = tmp_path / "printed.toml"
    printed.write_text(_data(capsys, "show", "low_memory", "--set", "seed=4"), encoding="utf-8")
    assert load_preset(printed) == load_preset("low_memory", ["seed=4"])


def test_show_json(capsys: Capture) -> None:
    out = _data(capsys, "show", "micro", "--json", "--set", "prompt=a red circle")
    assert decode_spec(out.encode()) == load_preset("micro", ["prompt=a red circle"])


def test_show_schema_and_keys(capsys: Capture) -> None:
    schema = json.loads(_data(capsys, "show", "--schema"))
    assert "extends" in schema["$defs"]["PresetFile"]["properties"]
    keys = json.loads(_data(capsys, "show", "--keys", "--json"))["keys"]
    of_runs = [key["key"] for key in keys if "extension" not in key]
    assert of_runs == [field.key for field in (*fields(RunSpec), *item_fields(RunSpec))]
    assert "extensions[N].options" in of_runs
    out = _data(capsys, "show", "--keys")
    for field in fields(RunSpec):
        assert f"{field.key} = " in out
        assert field.description in out


def test_keys_list_the_options_of_extensions(capsys: Capture) -> None:
    rows = json.loads(_data(capsys, "show", "--keys", "--json"))["keys"]
    found: dict[str, list[str]] = {}
    for row in rows:
        if "extension" in row:
            found.setdefault(row["extension"], []).append(row["key"])
            assert row["description"]
            assert row["expected"]
    expected = {
        "skip-layer-guidance": ["blocks", "start", "end"],
        "teacache": ["threshold", "start", "end"],
    }
    expected = {
        name: [f"extensions[N].options.{key}" for key in keys] for name, keys in expected.items()
    }
    assert expected.items() <= found.items()
    _, *parts = _data(capsys, "show", "--keys").split("\nwhere extensions[N].name is ")
    for name, keys in expected.items():
        (part,) = [part for part in parts if part.startswith(f"{name}:")]
        typed = [line.split(" = ")[0] for line in part.splitlines() if line[:1].isalpha()]
        assert typed[1:] == keys


def test_the_schema_knows_the_options_of_extensions(capsys: Capture) -> None:
    schema = json.loads(_data(capsys, "show", "--schema"))
    known = {
        rule["if"]["properties"]["name"]["const"]: rule["then"]["properties"]["options"]
        for rule in schema["$defs"]["ExtensionSpec"]["allOf"]
    }
    assert known["teacache"]["properties"]["threshold"]["maximum"] == 10
    assert known["skip-layer-guidance"]["additionalProperties"] is False


def test_an_extension_that_cannot_be_imported_costs_a_warning(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"broken": "no_such_module:Thing", **registry.extensions()}
    monkeypatch.setattr(registry, "extensions", lambda: table)
    assert main(["presets", "show", "--keys"]) == 0
    out, err = capsys.readouterr()
    assert "the extension 'broken' cannot be imported" in err
    assert err.count("\n") == 1
    assert "threshold = 0.05" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("show", "micr"), 'no preset is named "micr", did you mean "micro"?'),
        (("show", "../x"), "is not a preset name"),
        (("show", "micro", "--set", "scheduler.step=3"), "did you mean scheduler.steps?"),
        (
            ("show", "micro", "--set", "guidance.scale=nan"),
            "guidance.scale: expected a finite number",
        ),
        (("path", "zzz"), 'no preset is named "zzz"'),
        (("save", "../x", "--from", "micro"), "is not a preset name"),
        (("save", "base", "--from", "micro"), "is the name of a shipped preset"),
        (("save", "mine", "--from", "absent"), 'no preset is named "absent"'),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], line: str, capsys: Capture
) -> None:
    assert line in _refusal(capsys, *arguments)
    assert list(user_preset_dir().iterdir()) == []


def test_missing_and_contradicting_arguments_are_bad_input(capsys: Capture) -> None:
    for arguments in (
        ("show",),
        ("show", "micro", "--schema"),
        ("show", "--schema", "--keys"),
        ("save", "x"),
    ):
        assert main(["presets", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Error" in err


def test_validate(capsys: Capture, user_presets: Path, tmp_path: Path) -> None:
    assert _data(capsys, "validate", "micro", "base") == "micro: ok\nbase: ok\n"
    assert _data(capsys, "validate").count(": ok\n") == 12
    assert _data(capsys, "validate", "micro", "--set", "frames=33") == "micro: ok\n"
    assert main(["presets", "validate", "--set", "frames=34"]) == 2
    assert capsys.readouterr().err.count("nearest valid: 33, 37") == 12
    bad = user_presets / "bad.toml"
    bad.write_text("[scheduler]\nsteps = 'many'\n")
    assert main(["presets", "validate", "micro", "bad"]) == 2
    out, err = capsys.readouterr()
    assert out == "micro: ok\n"
    assert err.startswith('bad: scheduler.steps: expected an integer >= 1 and <= 1000, got "many"')
    assert err.count("\n") == 1
    assert main(["presets", "validate", "--json"]) == 2
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["presets"]}
    assert rows["micro"] == {"name": "micro", "ok": True, "error": "", "errors": []}
    assert rows["bad"]["ok"] is False
    absent = tmp_path / "absent.toml"
    capsys.readouterr()
    assert main(["presets", "validate", str(absent)]) == 2
    assert capsys.readouterr().err == f"cannot read {absent}: No such file or directory\n"


def test_save_writes_the_differences_and_prints_the_path(
    capsys: Capture, user_presets: Path
) -> None:
    out = _data(
        capsys, "save", "mine", "--from", "micro", "--set", "seed=3", "--set", "prompt=a blue star"
    )
    assert Path(out.strip()) == user_presets / "mine.toml"
    written = tomllib.loads((user_presets / "mine.toml").read_text(encoding="utf-8"))
    assert written == {"format": 1, "extends": "micro", "seed": 3, "prompt": "a blue star"}
    assert "is already there" in _refusal(capsys, "save", "mine", "--from", "micro")


def test_a_preset_changed_in_place_keeps_its_parent_and_description(
    capsys: Capture, user_presets: Path
) -> None:
    _data(capsys, "save", "mine", "--from", "micro", "--set", "seed=3", "--description", "three")
    result = json.loads(
        _data(capsys, "save", "mine", "--from", "mine", "--set", "fps=4", "--overwrite", "--json")
    )
    assert result == {"name": "mine", "path": str(user_presets / "mine.toml"), "extends": "micro"}
    written = tomllib.loads((user_presets / "mine.toml").read_text(encoding="utf-8"))
    assert written == {
        "format": 1, "extends": "micro", "description": "three", "seed": 3, "fps": 4,
    }  # fmt: skip


def test_a_preset_saved_from_a_file_elsewhere_stands_alone(
    capsys: Capture, tmp_path: Path, user_presets: Path
) -> None:
    source = tmp_path / "elsewhere.toml"
    source.write_text('extends = "micro"\nseed = 8\n')
    _data(capsys, "save", "copy", "--from", str(source))
    source.unlink()
    assert load_preset("copy").seed == 8
    assert "extends" not in tomllib.loads((user_presets / "copy.toml").read_text(encoding="utf-8"))


def test_path(capsys: Capture, user_presets: Path) -> None:
    assert Path(_data(capsys, "path").strip()) == user_presets
    assert Path(_data(capsys, "path", "micro").strip()).name == "micro.toml"
    assert json.loads(_data(capsys, "path", "--json")) == {"name": None, "path": str(user_presets)}


def test_set_add_and_remove_are_applied_as_they_are_typed(capsys: Capture) -> None:
    def names(*arguments: str) -> list[str]:
        shown = json.loads(_data(capsys, "show", "micro", "--json", *arguments))
        return [
            each["name"] + (str(each["options"]) if each["options"] else "")
            for each in shown["extensions"]
        ]

    skip, cache = (
        ("--add", "extensions.name=skip-layer-guidance"),
        ("--add", "extensions.name=teacache"),
    )
    assert names(*skip, *cache) == ["skip-layer-guidance", "teacache"]
    assert names(*cache, "--set", "extensions[-1].options.end=0.5", *skip) == [
        "teacache{'end': 0.5}",
        "skip-layer-guidance",
    ]
    assert names(*skip, "--remove=extensions[0]", *cache) == ["teacache"]
    assert names(*skip, "--set", "extensions=[]") == []
    line = _refusal(capsys, "show", "micro", "--remove", "extensions[0]", *skip)
    assert line.endswith("extensions[0]: extensions has no item 0; it is empty")


def test_what_no_run_would_take_is_no_preset(capsys: Capture, user_presets: Path) -> None:
    """Names of components and extensions, and options of these, are held to what there is, as a run does."""
    wrong = ("components.vae.name=nope", 'extensions=[{name="teacache", options={treshold=1}}]')
    settings = [word for each in wrong for word in ("--set", each)]
    assert main(["presets", "validate", "micro", *settings]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("micro: components.vae.name: unknown 'nope'; known: ")
    assert lines[1] == (
        "micro: extensions[0].options.treshold: unknown key, did you mean threshold?"
    )
    assert main(["presets", "save", "mine", "--from", "micro", *settings]) == 2
    assert "unknown 'nope'" in capsys.readouterr().err
    assert not (user_presets / "mine.toml").exists()
    off = 'extensions=[{name="theirs", enabled=false}]'
    assert main(["presets", "validate", "micro", "--set", off]) == 0


def test_all_that_is_wrong_with_a_preset_is_told(capsys: Capture, user_presets: Path) -> None:
    (user_presets / "bad.toml").write_text("prmpt = 'a'\nseed = -3\n[guidance]\nscalee = 3\n")
    assert main(["presets", "validate", "bad"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["prmpt", "seed", "guidance.scalee"]
    assert main(["presets", "validate", "bad", "--json"]) == 2
    (told,) = json.loads(capsys.readouterr().out)["presets"]
    assert [f"bad: {error}" for error in told["errors"]] == lines
    assert told["error"] == told["errors"][0]
