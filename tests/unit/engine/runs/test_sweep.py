"""Sweeps: what is varied, in which order, sharing what, and refused before anything is queued."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from itertools import groupby
from pathlib import Path

import msgspec
import pytest

from engine import client
from engine.checkpoints.library import Found
from engine.client import submit
from engine.errors import CheckpointError, ComponentError
from engine.inputs.settle import Settled
from engine.runs.sweep import Axis, count, make_members, parse_axes, with_outputs
from presets.encoding import decode_spec
from presets.errors import PresetError
from presets.library.loading import load_preset
from store.store import open_store


def load(overrides=()):
    return load_preset("micro", overrides)


def anything(spec):
    pass


def members(*over, check=anything, **options):
    return make_members(parse_axes(over), load, check, **options)


def values(found):
    return [tuple(member.values.values()) for member in found]


# Values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=1..4", ("1", "2", "3", "4")),
        ("seed=3..1", ("3", "2", "1")),
        ("seed=0..10..4", ("0", "4", "8")),
        ("seed=5..5", ("5",)),
        ("seed=1, 2,9..11", ("1", "2", "9", "10", "11")),
        ("guidance.scale=4..6..0.5", ("4", "4.5", "5", "5.5", "6")),
        ("guidance.scale=0.1..0.3..0.1", ("0.1", "0.2", "0.3")),
        ("guidance.scale=4,5,6", ("4", "5", "6")),
        ("guidance.scale=[5,1],4", ("[5,1]", "4")),
        ("guidance.scale=[{from=0,to=0.5,scale=6}],5", ("[{from=0,to=0.5,scale=6}]", "5")),
        ("seed=1..81..40", ("1", "41", "81")),
        ("seed=1..8..3,9", ("1", "4", "7", "9")),
        ("seed=1.0..2.0", ("1", "2")),
        ("scheduler.shift=5..3..-1", ("5", "4", "3")),
        ("scheduler.name=unipc, euler", ("unipc", "euler")),
        ("prompt=a red circle,a blue star", ("a red circle", "a blue star")),
        ('prompt=\'one, two\',"a \\" b, c"', ("'one, two'", '"a \\" b, c"')),
        ("prompt=the dog's ball, a cat", ("the dog's ball", "a cat")),
        ("prompt=1..3", ("1..3",)),
        ('prompt=""', ('""',)),
        ("scheduler.sigmas=[1.0, 0.5],[0.9,0.3]", ("[1.0, 0.5]", "[0.9,0.3]")),
        ("components.vae.tile_size=0,64", ("0", "64")),
    ],
)
def test_values_are_listed_ranged_and_quoted(text, expected):
    (axis,) = parse_axes([text])
    assert axis == Axis(text.partition("=")[0], expected)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (["seed"], "like seed=1..8"),
        (["seed="], "like seed=1..8"),
        (["seed=1,,2"], "empty"),
        (["seed=1,"], "empty"),
        (["sed=1..3"], "did you mean seed"),
        (["guidance=1"], "guidance.scale"),
        (["seed=1..x"], "seed: 1..x is no range; expected FIRST..LAST or FIRST..LAST..STEP"),
        (["seed=3,1...8"], "seed: 1...8 is no range"),
        (["seed=..8"], "no range"),
        (["seed=1..2..3..4"], "no range"),
        (["seed=1-8"], "no range"),
        (["frames=1:9:4"], "no range"),
        (["seed=0..1..0.25"], "seed: the range 0..1..0.25 has values between integers"),
        (["seed=1.5"], "seed: expected an integer"),
        (["seed=1..3..0"], "does not lead from 1 to 3"),
        (["seed=1..3..-1"], "does not lead from 1 to 3"),
        (["seed=0..99999999999"], "100000000000 values"),
        (['prompt="a,b'], "does not end"),
        (["scheduler.sigmas=[1.0, 0.5"], "does not end"),
        (["seed=1", "seed=2"], "varied twice"),
        (["output.path=a.mp4,b.mp4"], "--output"),
        (["width=64,63"], "multiple of 16"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_its_key(over, words):
    with pytest.raises(PresetError) as error:
        parse_axes(over)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_range_is_counted_before_it_is_held():
    assert count(parse_axes(["seed=1..9000", "frames=1,5", "fps=1..100"])) == 1_800_000


# The product


def test_the_product_has_every_combination_once_and_its_values_as_the_runs_have_them():
    found = members("guidance.scale=2,4", "seed=7..9")
    assert sorted(values(found)) == [(g, s) for g in (2.0, 4.0) for s in (7, 8, 9)]
    assert list(found[0].values) == ["guidance.scale", "seed"]
    for member in found:
        scale, seed = member.values.values()
        assert (member.spec.guidance.scale, member.spec.seed) == (scale, seed)
        assert member.segments == ()


def test_runs_that_share_steps_come_after_each_other():
    found = members("fps=8,12", "guidance.scale=2,4,6", "seed=1..4", from_step=10)
    assert [seed for seed, _ in groupby(member.spec.seed for member in found)] == [1, 2, 3, 4]
    chains = [(member.spec.seed, member.spec.guidance.scale) for member in found]
    assert len([chain for chain, _ in groupby(chains)]) == 12
    assert len(found) == 24


def test_from_a_step_on_the_steps_before_are_the_presets_with_the_runs_own_noise():
    base = load()
    for member in members("seed=1..3", "guidance.scale=4,6", "width=64,80", from_step=10):
        (segment,) = member.segments
        before = decode_spec(segment.spec_json)
        assert segment.stop == 10
        assert (before.seed, before.width) == (member.spec.seed, member.spec.width)
        assert before.guidance.scale == base.guidance.scale
        assert member.spec.guidance.scale in (4.0, 6.0)


def test_files_are_settled_for_the_run_and_for_the_steps_before(monkeypatch):
    # an engine that was started in another folder must find what this one means
    monkeypatch.setattr(
        "engine.runs.sweep.settle",
        lambda spec, scan: msgspec.structs.replace(spec, prompt="settled"),
    )
    (member,) = members("guidance.scale=6", from_step=5)
    assert member.spec.prompt == "settled"
    assert decode_spec(member.segments[0].spec_json).prompt == "settled"


@pytest.mark.parametrize(
    ("over", "options", "words"),
    [
        (["seed=1..3"], {"from_step": 5}, "none of seed can change between steps"),
        (["seed=1,2", "fps=8,9"], {"from_step": 5}, "nothing would differ"),
        (["guidance.scale=2,3"], {"from_step": 20}, "expected 0 to 19"),
        (["guidance.scale=2,3"], {"from_step": 5, "stop_at": 5}, "before they differ"),
        (["seed=1,2"], {"stop_at": 21}, "one of 20 steps, got 21"),
        (["scheduler.steps=30,10"], {"stop_at": 15}, "one of 10 steps, got 15"),
        (["guidance.scale=4,4.0"], {}, "guidance.scale=4.0 is the same run as guidance.scale=4"),
        (["scheduler.grid=wan,diffusers", "scheduler.name=euler,unipc"], {}, "scheduler.grid"),
    ],
)
def test_a_sweep_with_a_member_that_cannot_be_is_refused_whole(over, options, words):
    with pytest.raises(PresetError) as error:
        members(*over, **options)
    assert words in str(error.value)


def test_components_are_checked_as_for_a_single_run(tmp_path):
    with open_store(tmp_path / "store") as store:
        check = partial(client.check, store)
        with pytest.raises(ComponentError, match=r"components\.vae\.name"):
            members("components.vae.name=wan-vae,nope", check=check)
        with pytest.raises(CheckpointError, match=r"nope\.safetensors"):
            members("components.vae.checkpoint=builtin:micro,nope.safetensors", check=check)
        with pytest.raises(ComponentError, match="unknown extension"):
            members('extensions=[],[{name="nope"}]', check=check)


def test_a_check_that_reads_files_is_made_once_for_each_choice_of_components():
    seen = []
    check = lambda spec: seen.append(spec.components.vae)  # noqa: E731
    members("seed=1..20", "components.vae.chunk_frames=0,2", check=check)
    assert sorted(part.chunk_frames for part in seen) == [0, 2]


def test_what_was_checked_as_a_sweep_is_not_read_again_when_it_is_queued(tmp_path, monkeypatch):
    found = members("seed=1,2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.client.check", lambda *given: pytest.fail("reads files"))
    with open_store(tmp_path / "store") as store:
        ids = [submit(store, member.spec, is_checked=True) for member in found]
        assert [run.id for run in store.queued()] == ids


def test_the_model_folders_are_looked_through_once_for_all_members(tmp_path, monkeypatch):
    """Also for several names of models in one run, with and without what goes before a branch."""
    looks = []

    def look():
        looks.append(1)
        return []

    def find(kind, name, among):
        (tmp_path / kind).touch()
        return [Found(tmp_path / kind, "")]

    for module in ("engine.runs.sweep", "engine.components.choice", "engine.checkpoints.locate"):
        monkeypatch.setattr(f"{module}.scan_places", look)
    monkeypatch.setattr("engine.checkpoints.locate.find", find)
    monkeypatch.setattr("engine.components.providers.umt5._weights_at", lambda *_: None)
    published = lambda overrides: load_preset("wan2.1-t2v-1.3b", overrides)  # noqa: E731
    found = make_members(parse_axes(["guidance.scale=1..20"]), published, anything, from_step=3)
    assert len(found) == 20
    assert found[0].spec.components.vae.checkpoint == str(tmp_path / "vae")
    assert looks == [1]


# Outputs


def outputs(pattern, *over):
    return [member.spec.output.path for member in with_outputs(members(*over), pattern)]


def test_a_pattern_names_the_outputs_by_what_was_varied():
    assert outputs("{seed}-{guidance.scale}.mp4", "seed=1,2", "guidance.scale=2.5,4") == [
        "1-2.5.mp4",
        "1-4.mp4",
        "2-2.5.mp4",
        "2-4.mp4",
    ]
    assert outputs("{index}.mp4", "seed=1..10")[::9] == ["01.mp4", "10.mp4"]
    assert outputs("{run}.mp4", "seed=1,2") == ["{run}.mp4"] * 2
    assert outputs("", "seed=1,2") == ["", ""]


def test_an_option_of_an_extension_is_varied_and_names_the_outputs():
    key = "extensions[0].options.threshold"

    def load_cached(overrides=()):
        return load_preset("micro", ["+extensions.name=teacache", *overrides])

    found = make_members(parse_axes([f"{key}=0.1,0.2"]), load_cached, anything)
    assert [member.values for member in found] == [{key: 0.1}, {key: 0.2}]
    assert [member.spec.extensions[0].options for member in found] == [
        {"threshold": 0.1},
        {"threshold": 0.2},
    ]
    paths = [member.spec.output.path for member in with_outputs(found, f"{{{key}}}.mp4")]
    assert paths == ["0.1.mp4", "0.2.mp4"]


def test_a_value_in_a_name_cannot_lead_to_another_folder():
    (path,) = outputs("clips/{prompt}.mp4", 'prompt="../../etc/pass wd {run}/\\u001b"')
    assert path == "clips/etc-pass-wd-run.mp4"
    (path,) = outputs("{prompt}.mp4", f'prompt="{"x" * 400}"')
    assert len(path) < 60


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a.mp4", "would be written by several runs"),
        ("{fps}.mp4", "would be written by several runs"),
        ("{nope}.mp4", "{nope} stands for nothing"),
        ("{scheduler.sigmas}{run}.mp4", "{scheduler.sigmas} stands for nothing"),
        ("{output.path}{run}.mp4", "stands for nothing"),
    ],
)
def test_a_pattern_that_does_not_tell_the_runs_apart_is_refused(pattern, words):
    with pytest.raises(PresetError) as error:
        outputs(pattern, "seed=1,2")
    assert words in str(error.value)
    assert str(error.value).startswith("output.path: ")


def test_a_path_of_the_preset_is_one_file_for_all_and_refused():
    found = make_members(
        parse_axes(["seed=1,2"]),
        lambda overrides: load_preset("micro", overrides, values={"output.path": "mine.mp4"}),
        anything,
    )
    with pytest.raises(PresetError, match=r"mine\.mp4 would be written by several runs"):
        with_outputs(found, "")


def test_torch_is_not_needed():
    code = (
        "import sys; from engine.runs.sweep import *; from presets.library.loading import load_preset\n"
        "make_members(parse_axes(['seed=1..2']), lambda o: load_preset('micro', o), print)\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


# pictures and clips


def looked_at(spec):
    """As where pictures decide: each of another size."""
    if not spec.image.path:
        return Settled(spec)
    number = int(spec.image.path.removesuffix(".png"))
    picture = msgspec.structs.replace(spec.image, digest=f"sha256:{number:064}")
    width = spec.width or 16 * number
    sized = msgspec.structs.replace(spec, image=picture, width=width, height=32)
    return Settled(sized, (f"image: {spec.image.path}",))


def with_picture(overrides=()):
    return load_preset("micro-i2v", ["width=0", "height=0", "image.path=3.png", *overrides])


def test_every_run_is_looked_at_and_values_are_as_typed():
    axes = parse_axes(["image.path=2.png,4.png"])
    found = make_members(axes, with_picture, anything, look=looked_at)
    assert [member.spec.width for member in found] == [32, 64]
    assert values(found) == [("2.png",), ("4.png",)]
    assert [member.notes for member in found] == [("image: 2.png",), ("image: 4.png",)]
    named = with_outputs(found, "{image.path}-{index}.mp4")
    assert [member.spec.output.path for member in named] == ["2-1.mp4", "4-2.mp4"]


def test_a_picture_that_is_shown_later_does_not_decide_the_size():
    axes = parse_axes(["image.path=2.png,4.png"])
    for member in make_members(axes, with_picture, anything, look=looked_at, from_step=3):
        before = decode_spec(member.segments[0].spec_json)
        assert (before.image.path, before.width) == ("3.png", 48)
        assert before.image.digest
        assert (member.spec.width, member.spec.height) == (48, 32)
