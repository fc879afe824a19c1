"""Finding, reading, layering and saving presets, with real files; and the facts in the shipped
ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

import presets
from presets.encoding import encode_spec
from presets.errors import PresetError
from presets.library.files import MAX_FILE_BYTES, read_preset_text, write_preset_text
from presets.library.listing import list_presets
from presets.library.loading import load_preset, override
from presets.library.paths import preset_path, user_preset_dir
from presets.library.saving import dump_preset, save_preset
from presets.spec.run import RunSpec
from presets.spec.sampling import ExtensionSpec, SchedulerSpec

ROOT = Path(presets.__file__).parent.parent

# The published default (wan/configs/shared_config.py), in UTF-8.
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"
    "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


def _line(path: Path) -> str:
    with pytest.raises(PresetError) as caught:
        load_preset(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


# ---- what is shipped


def test_all_shipped_presets_load() -> None:
    infos = list_presets()
    assert [info.name for info in infos] == [
        "base",
        "high_quality",
        "low_memory",
        "micro",
        "micro-flf2v",
        "micro-i2v",
        "wan2.1-flf2v-14b",
        "wan2.1-i2v-14b-480p",
        "wan2.1-i2v-14b-720p",
        "wan2.1-t2i-14b",
        "wan2.1-t2v-1.3b",
        "wan2.1-t2v-14b",
    ]
    for info in infos:
        assert info.shipped
        assert info.error == ""
        assert info.description
        assert info.path == preset_path(info.name)


def test_no_two_shipped_presets_are_the_same() -> None:
    names = [info.name for info in list_presets()]
    assert len({encode_spec(load_preset(name)) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("name", "width", "height", "frames", "checkpoint"),
    [
        ("wan2.1-t2v-1.3b", 832, 480, 81, "wan2.1-t2v-1.3b"),
        ("wan2.1-t2v-14b", 1280, 720, 81, "wan2.1-t2v-14b"),
        ("wan2.1-t2i-14b", 1024, 1024, 1, "wan2.1-t2v-14b"),
    ],
)
def test_published_models_carry_their_published_defaults(
    name: str, width: int, height: int, frames: int, checkpoint: str
) -> None:
    spec = load_preset(name)
    assert (spec.width, spec.height, spec.frames, spec.fps) == (width, height, frames, 16)
    assert spec.scheduler == SchedulerSpec(name="unipc", steps=50, shift=5.0, grid="wan")
    assert spec.guidance.scale == 5.0
    assert spec.negative_prompt == NEGATIVE_PROMPT
    assert spec.components.denoiser.checkpoint == checkpoint
    assert spec.components.denoiser.dtype == "bf16"
    assert spec.components.text_encoder.dtype == "bf16"
    assert spec.components.vae.dtype == "fp32"
    assert spec.extensions == ()


def test_the_general_presets_say_what_their_names_say() -> None:
    base, low, high = (load_preset(name) for name in ("base", "low_memory", "high_quality"))
    assert (base.width, base.height, base.frames) == (832, 480, 81)
    assert {base.negative_prompt, low.negative_prompt, high.negative_prompt} == {NEGATIVE_PROMPT}
    assert low.width * low.height * low.frames < base.width * base.height * base.frames / 2
    assert low.components.vae.tile_size > 0
    assert low.components.vae.chunk_frames < base.components.vae.chunk_frames
    assert {low.components.vae.dtype, low.components.denoiser.dtype} == {"bf16"}
    published = load_preset("wan2.1-t2v-14b")
    assert (high.width, high.height) == (published.width, published.height) == (1280, 720)
    assert high.scheduler.steps == 2 * published.scheduler.steps
    assert (base.scheduler.shift, base.guidance.scale) == (8.0, 6.0)
    assert high.components.denoiser.checkpoint == "wan2.1-t2v-14b"
    assert high.components.vae.dtype == "fp32"


def test_micro_needs_nothing_but_the_package() -> None:
    spec = load_preset("micro")
    parts = (spec.components.text_encoder, spec.components.denoiser, spec.components.vae)
    assert {part.checkpoint for part in parts} == {"builtin:micro"}
    assert {part.dtype for part in parts} == {"fp32"}
    assert (spec.width, spec.height, spec.frames, spec.fps) == (64, 64, 17, 8)
    assert (spec.scheduler.steps, spec.scheduler.shift, spec.guidance.scale) == (20, 3.0, 2.5)
    assert spec.prompt == "a large red circle moves left over a dark blue background"
    assert spec.negative_prompt == ""


# ---- names and paths


def test_the_config_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODIFF_CONFIG_DIR", "/somewhere")
    assert user_preset_dir() == Path("/somewhere/presets")
    monkeypatch.setenv("MODIFF_CONFIG_DIR", "")
    assert user_preset_dir().parts[-2:] == ("modiff", "presets")
    assert user_preset_dir() != Path("/somewhere/presets")


def test_a_home_that_is_not_there_costs_only_the_users_own(monkeypatch):
    monkeypatch.setenv("MODIFF_CONFIG_DIR", "~nobody-of-that-name/x")
    assert load_preset("micro")
    for ask in (lambda: load_preset("mine"), list_presets):
        with pytest.raises(PresetError, match="MODIFF_CONFIG_DIR=~nobody-of-that-name/x"):
            ask()


def test_a_missing_user_folder_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(tmp_path / "absent"))
    assert all(info.shipped for info in list_presets())
    assert not (tmp_path / "absent").exists()


def test_unknown_names_suggest_the_nearest(user_presets: Path) -> None:
    (user_presets / "fox-look.toml").write_text("seed = 1\n")
    with pytest.raises(PresetError, match=r'^no preset is named "micr", did you mean "micro"'):
        load_preset("micr")
    with pytest.raises(PresetError, match='did you mean "fox-look"'):
        preset_path("foxlook")
    with pytest.raises(PresetError, match=r"there are base, high_quality, .*fox-look"):
        load_preset("zzzz")


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc/passwd", "", ".", "..", ".hidden", "a\nb", "x" * 65]
)
def test_names_that_could_leave_the_folder_are_refused(name: str, user_presets: Path) -> None:
    with pytest.raises(PresetError, match="is not a preset name"):
        load_preset(name)
    with pytest.raises(PresetError, match="is not a preset name"):
        save_preset(name, RunSpec())
    assert list(user_presets.parent.rglob("*.toml")) == []


@pytest.mark.parametrize("name", ["../x", "../x.toml", "/etc/passwd.toml"])
def test_a_preset_cannot_extend_a_file_outside_the_library(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("seed = 1\n")
    path = tmp_path / "child.toml"
    path.write_text(f'extends = "{name}"\n')
    assert _line(path).startswith("extends: ")


def test_presets_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "with space.toml"
    path.write_text('extends = "micro"\nseed = 5\n')
    assert load_preset(path).seed == 5
    assert load_preset(str(path)).frames == 17
    monkeypatch.chdir(tmp_path)
    assert load_preset("with space.toml").seed == 5


def test_a_user_file_cannot_take_the_name_of_a_shipped_preset(user_presets: Path) -> None:
    (user_presets / "base.toml").write_text("seed = 77\n")
    assert load_preset("base").seed == 0
    own = next(info for info in list_presets() if not info.shipped)
    assert "the name belongs to a shipped preset" in own.error
    for name in ("base", "BASE"):
        with pytest.raises(PresetError, match="is the name of a shipped preset"):
            save_preset(name, RunSpec(), overwrite=True)


# ---- layers


def test_tables_merge_key_by_key_and_lists_are_replaced(user_presets: Path) -> None:
    (user_presets / "a.toml").write_text(
        'extends = "micro"\nextensions = [{ name = "x" }, { name = "y" }]\n'
        '[scheduler]\nname = "euler"\nsteps = 7\n[output]\nkinds = ["video", "latents"]\n'
    )
    (user_presets / "b.toml").write_text(
        'extends = "a"\nextensions = [{ name = "z" }]\n[scheduler]\nsteps = 9\n[output]\nkinds = ["frames"]\n'
    )
    spec = load_preset("b")
    assert spec.scheduler == SchedulerSpec(name="euler", steps=9, shift=3.0)
    assert spec.extensions == (ExtensionSpec(name="z"),)
    assert spec.output.kinds == ("frames",)
    assert spec.width == 64


def test_sigmas_of_a_child_decide_the_steps_and_a_grandchild_may_drop_them(
    user_presets: Path,
) -> None:
    (user_presets / "few.toml").write_text(
        'extends = "micro"\nscheduler.sigmas = [1.0, 0.6, 0.2]\n'
    )
    (user_presets / "free.toml").write_text(
        'extends = "few"\n[scheduler]\nsigmas = []\nsteps = 30\n'
    )
    assert load_preset("few").scheduler.steps == 3
    assert load_preset("free").scheduler == SchedulerSpec(steps=30, shift=3.0)
    with pytest.raises(PresetError, match=r"^scheduler\.steps: expected 3, .* got 30"):
        load_preset("few", ["scheduler.steps=30"])


def test_circles_and_missing_parents_are_named(user_presets: Path) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a"), ("self", "self"), ("lost", "bse")):
        (user_presets / f"{name}.toml").write_text(f'extends = "{parent}"\n')
    with pytest.raises(
        PresetError, match=r"^extends: a -> b -> c -> a goes in a circle \(in .*c\.toml\)$"
    ):
        load_preset("a")
    with pytest.raises(PresetError, match=r"^extends: self -> self goes in a circle"):
        load_preset("self")
    with pytest.raises(
        PresetError,
        match=r'^extends: no preset is named "bse", did you mean "base"\? \(in .*lost\.toml\)$',
    ):
        load_preset("lost")
    errors = {info.name: info.error for info in list_presets() if not info.shipped}
    assert all("circle" in errors[name] for name in ("a", "b", "c", "self"))


def test_an_error_names_the_file_of_the_chain_that_holds_the_key(user_presets: Path) -> None:
    (user_presets / "parent.toml").write_text("[scheduler]\nsteps = 'many'\n")
    (user_presets / "child.toml").write_text('extends = "parent"\n[scheduler]\nsteps = 5\n')
    with pytest.raises(
        PresetError, match=r'^scheduler\.steps: .*got "many" \(in .*parent\.toml\)$'
    ):
        load_preset("child")
    (user_presets / "tiles.toml").write_text("[components.vae]\ntile_size = 96\n")
    (user_presets / "tiled.toml").write_text(
        'extends = "tiles"\n[components.vae]\ntile_overlap = 56\n'
    )
    with pytest.raises(
        PresetError, match=r"^components\.vae\.tile_overlap: .*\(in .*tiled\.toml\)$"
    ):
        load_preset("tiled")
    with pytest.raises(PresetError, match=r"^components\.vae\.tile_overlap: .*got 80$"):
        load_preset("tiled", ["components.vae.tile_overlap=80"])


# ---- bad files


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            b"format = 2\nnew_key = 1\n",
            "format: 2 is newer than 1, the newest that this modiff reads;",
        ),
        (b'format = "1"\n', 'format: expected 1, got "1"'),
        (
            b"[scheduler]\nstepz = 3\n",
            "scheduler.stepz: unknown key, did you mean scheduler.steps?",
        ),
        (b'extend = "base"\n', "extend: unknown key, did you mean extends?"),
        (b"extends = 3\n", "extends: expected text of at most 64 characters, got 3"),
        (
            b"[scheduler]\nsteps = '12'\n",
            'scheduler.steps: expected an integer >= 1 and <= 1000, got "12"',
        ),
        (b"scheduler = 12\n", "scheduler: expected a table, got 12"),
        (b"[guidance]\nscale = nan\n", "guidance.scale: expected a finite number"),
        (b"[guidance]\nscale = -inf\n", "guidance.scale: expected a finite number"),
        (
            b"frames = 80\n",
            "frames: expected an integer 4n+1 >= 1 and <= 1025, got 80; nearest valid: 77, 81",
        ),
        (
            b"width = 830\n",
            "width: expected a multiple of 16 from 16 to 4096, or 0 where a picture decides, got 830; nearest",
        ),
        (b"seed = 1979-05-27\n", "seed: expected an integer"),
        (
            b"prompt = '" + b"x" * 20_000 + b"'\n",
            "prompt: expected text of at most 16384 bytes, got text",
        ),
        (
            b"prompt = '" + b"x" * 2**20 + b"'\n",
            "prompt: a preset file has at most 262144 bytes, got",
        ),
        (b"seed = 1\n#" + b"x" * 2**20, "seed: a preset file has at most 262144 bytes, got"),
        (b'"\\u001b[31m" = 1\n', "\\x1b[31m: unknown key"),
        (b'"' + b"k" * 5000 + b'" = 1\n', "k" * 60 + "...: unknown key"),
        (
            b"[[extensions]]\nname = 'x'\n[extensions.options]\na = nan\n",
            "extensions[0].options.a: expected",
        ),
        (
            b"[[extensions]]\nname = 'x'\n[extensions.options]\na.b = 1\n",
            "extensions[0].options.a: expected",
        ),
    ],
)
def test_bad_keys_in_a_file_are_one_line_with_key_and_file(
    content: bytes, line: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    message = _line(path)
    assert message.startswith(line)
    assert message.endswith(f"(in {path})")
    assert len(message) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"seed = 1\nprompt = 'open\n", "not valid TOML: "),
        (b"seed = 1\nwidth\n", "line 2"),
        (b"seed = 1\nseed = 2\n", "line 2"),
        (b"seed = " + b"[" * 50_000, "nested too deeply"),
        (b"seed = 1\nprompt = '\xff'\n", "line 2 is not UTF-8 (byte 0xff)"),
        ("prompt = 'x'".encode("utf-16"), "line 1 is not UTF-8 (byte 0xff)"),
    ],
)
def test_files_that_are_no_toml_are_one_line_with_file_and_place(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    message = _line(path)
    assert message.startswith(f"{path}: ")
    assert problem in message


def test_a_byte_order_mark_and_crlf_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "notepad.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 4\r\nfps = 24\r\n")
    spec = load_preset(path)
    assert (spec.seed, spec.fps) == (4, 24)


def test_the_largest_file_that_is_read_is_read(tmp_path: Path) -> None:
    path = tmp_path / "full.toml"
    content = b"seed = 3\n#"
    path.write_bytes(content + b"x" * (MAX_FILE_BYTES - len(content)))
    assert load_preset(path).seed == 3


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    folder = tmp_path / "folder.toml"
    assert _line(folder) == f"cannot read {folder}: it is not a regular file"
    assert _line(tmp_path / "pipe.toml").endswith("it is not a regular file")
    assert _line(tmp_path / "absent.toml").endswith("No such file or directory")
    assert _line(tmp_path / "nul\0.toml").startswith("cannot read ")


@pytest.mark.parametrize(
    ("content", "key"),
    [("seed = {}", "seed"), ("[scheduler]\nshift = 3.0\nsteps = -{}", "scheduler.steps")],
)
def test_an_integer_of_thousands_of_digits_is_named_by_its_key(
    content: str, key: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content.format("9" * 5000))
    problem = "an integer of thousands of digits is too large"
    assert _line(path) == f"{key}: {problem} (in {path})"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.toml"
    path.write_text("seed = 1\n")
    path.chmod(0)
    assert _line(path) == f"cannot read {path}: Permission denied"


def test_a_broken_user_preset_does_not_hide_the_others(user_presets: Path) -> None:
    (user_presets / "bad.toml").write_text("sed = 1\n")
    (user_presets / "good.toml").write_text('extends = "micro"\ndescription = "fine"\n')
    (user_presets / "no name.toml").write_text("seed = 1\n")
    (user_presets / ".half-abc.tmp").write_text("se")
    infos = {info.name: info for info in list_presets() if not info.shipped}
    assert set(infos) == {"bad", "good", "no name"}
    assert infos["bad"].error.startswith("sed: unknown key")
    assert "is not a preset name" in infos["no name"].error
    good = infos["good"]
    assert (good.error, good.description, good.extends) == ("", "fine", "micro")


# ---- saving


def test_only_the_differences_from_the_parent_are_written(user_presets: Path) -> None:
    spec = load_preset("micro", ["seed=9", "components.vae.chunk_frames=1"])
    path = save_preset("mine", spec, description="nine", extends="micro")
    assert path == user_presets / "mine.toml"
    assert tomllib.loads(path.read_text(encoding="utf-8")) == {
        "format": 1,
        "extends": "micro",
        "description": "nine",
        "seed": 9,
        "components": {"vae": {"chunk_frames": 1}},
    }
    assert load_preset("mine") == spec
    assert [p.name for p in user_presets.iterdir()] == ["mine.toml"]


def test_options_that_are_equal_in_python_but_not_in_type_are_differences() -> None:
    one, true = (
        RunSpec(extensions=(ExtensionSpec(name="x", options={"a": value}),)) for value in (1, True)
    )
    save_preset("one", one)
    save_preset("true", true, extends="one")
    assert load_preset("true").extensions[0].options["a"] is True


def test_without_a_parent_everything_is_written(user_presets: Path) -> None:
    save_preset("whole", RunSpec())
    written = tomllib.loads((user_presets / "whole.toml").read_text(encoding="utf-8"))
    assert set(written) == set(RunSpec.__struct_fields__)


def test_a_taken_name_is_kept_unless_overwriting(user_presets: Path) -> None:
    save_preset("mine", RunSpec(seed=1))
    with pytest.raises(PresetError, match=r'^a preset named "mine" is already there'):
        save_preset("mine", RunSpec(seed=2))
    assert load_preset("mine").seed == 1
    save_preset("mine", RunSpec(seed=2), overwrite=True)
    assert load_preset("mine").seed == 2
    assert [p.name for p in user_presets.iterdir()] == ["mine.toml"]


def test_a_preset_cannot_be_saved_on_top_of_its_own_descendant() -> None:
    save_preset("a", RunSpec(seed=1))
    save_preset("b", RunSpec(seed=2), extends="a")
    for parent in ("a", "b"):
        with pytest.raises(PresetError, match=f'^extends: "{parent}" is built on "a" itself'):
            save_preset("a", RunSpec(seed=3), extends=parent, overwrite=True)
    assert load_preset("b").seed == 2


def test_what_could_not_be_read_back_is_not_written(user_presets: Path) -> None:
    options: dict[str, bool | int | float | str] = {f"o{i}": "x" * 4096 for i in range(64)}
    heavy = RunSpec(extensions=(ExtensionSpec(name="x", options=options),) * 2)
    with pytest.raises(PresetError, match="a preset file has at most 262144 bytes"):
        save_preset("heavy", heavy)
    with pytest.raises(PresetError, match=r"^frames: "):
        save_preset("bad", replace(RunSpec(), frames=80))
    with pytest.raises(
        PresetError, match=r"^description: expected text of at most 1000 characters"
    ):
        save_preset("bad", RunSpec(), description="x" * 1001)
    assert list(user_presets.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(tmp_path / "file"))
    with pytest.raises(PresetError, match=r"^cannot write .*mine.toml: Not a directory"):
        save_preset("mine", RunSpec())


def test_a_failed_write_leaves_the_old_preset_and_no_debris(
    user_presets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_preset("mine", RunSpec(seed=1))

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PresetError, match=r"^cannot write .*mine.toml: No space left on device"):
        save_preset("mine", RunSpec(seed=2), overwrite=True)
    assert load_preset("mine").seed == 1
    assert [p.name for p in user_presets.iterdir()] == ["mine.toml"]


_KILLED_WHILE_SAVING = """
import os, signal
from presets.library.saving import save_preset
from presets.spec.run import RunSpec
os.{function} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
save_preset("mine", RunSpec(seed=2), overwrite=True)
"""


@pytest.mark.parametrize("function", ["fdopen", "fsync", "replace"])
def test_a_process_killed_while_saving_leaves_the_old_preset(
    function: str, user_presets: Path
) -> None:
    save_preset("mine", RunSpec(seed=1))
    before = (user_presets / "mine.toml").read_bytes()
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_WHILE_SAVING.format(function=function)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (user_presets / "mine.toml").read_bytes() == before
    assert [info.name for info in list_presets() if not info.shipped] == ["mine"]
    save_preset("mine", RunSpec(seed=3), overwrite=True)
    assert load_preset("mine").seed == 3


_RACER = """
import sys
from presets.encoding import encode_spec
from presets.errors import PresetError
from presets.library.saving import save_preset
from presets.spec.run import RunSpec
sys.stdin.read()
try:
    save_preset("race", RunSpec(seed=int(sys.argv[1])))
    print("won")
except PresetError as error:
    print(error)
"""


def test_two_processes_that_save_the_same_new_name_cannot_both_win() -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for seed in (1, 2)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    results = [racer.communicate()[0].strip() for racer in racers]
    assert sorted(results)[1] == "won"
    assert sorted(results)[0].startswith('a preset named "race" is already there')
    assert load_preset("race").seed == results.index("won") + 1


def test_options_of_a_component_are_set_as_a_whole_or_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "micro"\n[components.vae.options]\na = 1\nb = "x"\n')
    assert load_preset(path).components.vae.options == {"a": 1, "b": "x"}
    other = load_preset(path, ["components.vae.options={b = 2.5}"])
    assert other.components.vae.options == {"b": 2.5}
    assert load_preset(path, ["components.vae.options={}"]).components.vae.options == {}
    one = load_preset(path, ["components.vae.options.b=2"])
    assert one.components.vae.options == {"a": 1, "b": 2}
    with pytest.raises(PresetError, match=r"components\.vae\.options\.c: expected true, false, a"):
        load_preset(path, ["components.vae.options={c = [1]}"])


def test_a_file_that_another_program_changed_is_not_replaced():
    path = save_preset("mine", load_preset("micro"))
    read = read_preset_text(path)
    write_preset_text(path, read + "# ours\n", expected=read)
    with pytest.raises(PresetError, match="changed by another program") as caught:
        write_preset_text(path, read + "# theirs\n", expected=read)
    assert "\n" not in str(caught.value)
    assert read_preset_text(path) == read + "# ours\n"
    path.unlink()
    write_preset_text(path, read, expected="what it held")  # nobody's changes are lost
    assert read_preset_text(path) == read


# what a run begins from


def test_what_was_found_out_of_a_file_is_in_no_preset(user_presets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    base = load_preset("micro")
    clip = replace(base.video, path="clip.mp4", digest=f"sha256:{'0' * 64}")
    spec = replace(base, video=clip)
    for extends in ("", "micro"):
        path = save_preset("mine", spec, extends=extends, overwrite=True)
        assert "digest" not in path.read_text()
        assert load_preset("mine").video.path == str(tmp_path / "clip.mp4")
    assert "digest" not in dump_preset(spec)


def test_a_path_of_nothing_here_is_saved_as_it_is(user_presets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_preset("mine", load_preset("micro", ["video.path=gone.mp4"]), extends="micro")
    assert load_preset("mine").video.path == "gone.mp4"


def test_other_frames_are_counted_anew():
    base = load_preset("micro", ["video.path=clip.mp4"])
    known = replace(base.video, digest=f"sha256:{'0' * 64}")
    spec = replace(base, video=known)
    assert override(spec, ["seed=3"]).video.digest == known.digest
    assert override(spec, ["frames=9"]).video.digest == ""
    assert override(spec, ["video.path=clip.mp4"]).video.digest == ""
