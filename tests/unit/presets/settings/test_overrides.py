"""`--set KEY=VALUE`: what is understood, and the one line for what is not."""

from __future__ import annotations

import pytest

from presets.errors import PresetError
from presets.library.loading import load_preset
from presets.settings.overrides import parse_overrides
from presets.spec.sampling import ExtensionSpec


@pytest.mark.parametrize(
    ("override", "settings"),
    [
        ("scheduler.steps=12", {"scheduler": {"steps": 12}}),
        (" scheduler.steps = 12 ", {"scheduler": {"steps": 12}}),
        ("guidance.scale=6", {"guidance": {"scale": 6}}),
        ("scheduler.sigmas=[1.0,0.5]", {"scheduler": {"sigmas": [1.0, 0.5]}}),
        ("scheduler.name=dpm++", {"scheduler": {"name": "dpm++"}}),
        ('output.kinds=["video", "latents"]', {"output": {"kinds": ["video", "latents"]}}),
        ("prompt=a red circle", {"prompt": "a red circle"}),
        ('prompt="a red circle"', {"prompt": "a red circle"}),
        ("prompt='a \"red\" circle'", {"prompt": 'a "red" circle'}),
        ("prompt=x = 1, y = 2", {"prompt": "x = 1, y = 2"}),
        ("prompt=2024", {"prompt": "2024"}),
        ("prompt=2024-01-01", {"prompt": "2024-01-01"}),
        ("prompt=true", {"prompt": "true"}),
        ("prompt=nan", {"prompt": "nan"}),
        ('prompt="unbalanced', {"prompt": '"unbalanced'}),
        ("prompt=1\nseed=3", {"prompt": "1\nseed=3"}),
        ("prompt=", {"prompt": ""}),
        ("prompt= 红色 ", {"prompt": " 红色 "}),
        (
            "components.vae.checkpoint=C:\\weights",
            {"components": {"vae": {"checkpoint": "C:\\weights"}}},
        ),
        ("extensions=[]", {"extensions": []}),
    ],
)
def test_values(override: str, settings: dict[str, object]) -> None:
    assert parse_overrides([override]) == settings


def test_the_last_value_of_a_key_wins() -> None:
    assert load_preset("micro", ["seed=1", "seed=2"]).seed == 2


def test_extensions_are_set_as_a_whole() -> None:
    spec = load_preset("micro", ['extensions=[{name="teacache", options={threshold=0.2}}]'])
    assert spec.extensions == (ExtensionSpec(name="teacache", options={"threshold": 0.2}),)


def test_sigmas_decide_the_steps() -> None:
    spec = load_preset("micro", ["scheduler.sigmas=[1.0,0.5,0.1]"])
    assert spec.scheduler.steps == 3
    assert (
        load_preset("micro", ["scheduler.sigmas=[1.0]", "scheduler.steps=1"]).scheduler.steps == 1
    )


STEPS = "expected an integer >= 1 and <= 1000"
SCALE = "expected a finite number >= 0 and <= 100"
SIZE = "expected a multiple of 16 from 16 to 4096, or 0 where a picture decides"
FRAMES = "expected an integer 4n+1 >= 1 and <= 1025"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("scheduler.steps=many", f'scheduler.steps: {STEPS}, got "many"'),
        ("scheduler.steps=", f'scheduler.steps: {STEPS}, got ""'),
        ("scheduler.steps=0", f"scheduler.steps: {STEPS}, got 0"),
        ("scheduler.steps=1001", f"scheduler.steps: {STEPS}, got 1001"),
        ("scheduler.steps=12.0", f"scheduler.steps: {STEPS}, got 12.0"),
        ("scheduler.steps=true", f"scheduler.steps: {STEPS}, got true"),
        (
            "scheduler.steps=2024-01-01",
            f"scheduler.steps: {STEPS}, got the date or time 2024-01-01",
        ),
        ("scheduler.steps=[1]", f"scheduler.steps: {STEPS}, got an array of 1"),
        ("scheduler.steps={a=1}", f"scheduler.steps: {STEPS}, got a table"),
        (
            "scheduler.steps=" + "9" * 100,
            f"scheduler.steps: {STEPS}, got an integer of about 100 digits",
        ),
        ("scheduler.steps=" + "9" * 9000, f"scheduler.steps: {STEPS}, got text of 9000 bytes"),
        ("scheduler.steps=" + "[" * 9000, f"scheduler.steps: {STEPS}, got text of 9000 bytes"),
        ("guidance.scale=nan", f"guidance.scale: {SCALE}, got nan"),
        ("guidance.scale=inf", f"guidance.scale: {SCALE}, got inf"),
        ("guidance.scale=-inf", f"guidance.scale: {SCALE}, got -inf"),
        ("guidance.scale=-0.5", f"guidance.scale: {SCALE}, got -0.5"),
        (
            "scheduler.shift=0",
            "scheduler.shift: expected a finite number >= 0.01 and <= 100, got 0",
        ),
        ("width=830", f"width: {SIZE}, got 830; nearest valid: 816, 832"),
        ("height=8", f"height: {SIZE}, got 8; nearest valid: 0, 16"),
        ("height=4100", f"height: {SIZE}, got 4100; nearest valid: 4096"),
        ("width=-3", f"width: {SIZE}, got -3; nearest valid: 0"),
        ("frames=80", f"frames: {FRAMES}, got 80; nearest valid: 77, 81"),
        ("frames=0", f"frames: {FRAMES}, got 0; nearest valid: 1"),
        ("frames=2000", f"frames: {FRAMES}, got 2000; nearest valid: 1025"),
        (
            "seed=-1",
            "seed: expected an integer >= 0 and <= 18446744073709551615 (`--seed random` draws one), got -1",
        ),
        ("seed=18446744073709551616", "seed: expected an integer >= 0 and <= 18446744073709551615"),
        (
            "prompt=" + "x" * 2**20,
            "prompt: expected text of at most 16384 bytes, got text of 1048576 bytes",
        ),
        (
            "prompt=" + "é" * 10_000,
            "prompt: expected text of at most 16384 bytes, got text of 20000 bytes",
        ),
        ("prompt=a\0b", "prompt: expected text without NUL characters"),
        ("prompt=\udc80", "prompt: expected text that is valid Unicode (UTF-8)"),
        ("scheduler.step=3", "scheduler.step: unknown key, did you mean scheduler.steps?"),
        (
            "schedular.steps=3",
            "schedular.steps: unknown key, did you mean scheduler.steps or keep.steps?",
        ),
        ("steps=3", "steps: unknown key, did you mean scheduler.steps or keep.steps?"),
        ("guidance_scale=3", "guidance_scale: unknown key, did you mean guidance.scale?"),
        ("negative-prompt=x", "negative-prompt: unknown key, did you mean negative_prompt?"),
        (
            "dtype=fp32",
            "dtype: unknown key, did you mean components.text_encoder.dtype, components.image_encoder.dtype, "
            "components.denoiser.dtype, components.vae.dtype or components.prompt_expander.dtype?",
        ),
        ("qqqq=3", "qqqq: unknown key"),
        ("scheduler=3", "scheduler: holds other keys; set one of scheduler.name, scheduler.steps,"),
        (
            "extensions.teacache.threshold=1",
            "extensions.teacache.threshold: extensions is a list; name one of its items, as in extensions[0]",
        ),
        ("extensions=teacache", "extensions: expected an array (at most 64), each item a table"),
        (
            "extensions=[{nam='a'}]",
            "extensions[0].nam: unknown key, did you mean extensions[0].name?",
        ),
        ("extensions=[{}]", "extensions[0].name: missing, expected a name of"),
        ("extends=base", "extends: belongs in a preset file and cannot be set for a run"),
        ("format=2", "format: is the version of a file, not a setting of a run"),
        (
            "scheduler.name=unipcc",
            'scheduler.name: expected "dpm++", "euler", "sde-dpm++" or "unipc", got "unipcc", did you mean "unipc"?',
        ),
        (
            "components.vae.device=gpu",
            'components.vae.device: expected "auto", "cpu", "mps", "cuda" or',
        ),
        ("components.vae.device='''cpu\n'''", "components.vae.device: expected"),
        ("components.denoiser.name=../x", "components.denoiser.name: expected a name of letters"),
        ("components.vae.tile_size=100", "components.vae.tile_size: expected a multiple of 8"),
        (
            "components.vae.tile_size=32",
            "components.vae.tile_size: expected 0 (no tiles) or at least 64",
        ),
        (
            "components.vae.tile_size=96",
            "components.vae.tile_overlap: expected at most 48, half of",
        ),
        ("scheduler.sigmas=1", "scheduler.sigmas: expected an array (at most 1000)"),
        ("scheduler.sigmas=[0.5,1.0]", "scheduler.sigmas: expected descending values, got 1.0 at"),
        ("scheduler.sigmas=[0.9,0.8999999999]", "scheduler.sigmas: expected descending values"),
        ("scheduler.sigmas=[0.5,0.5]", "scheduler.sigmas: expected descending values, got 0.5 at"),
        (
            "scheduler.sigmas=[1.0,0.0]",
            "scheduler.sigmas[1]: expected a finite number >= 0.0001 and <= 1",
        ),
        (
            "scheduler.sigmas=[1.0,nan]",
            "scheduler.sigmas[1]: expected a finite number >= 0.0001 and <= 1",
        ),
        ("output.kinds=[]", "output.kinds: expected an array (at least 1, at most 3)"),
        ('output.kinds=["video","video"]', "output.kinds: expected each kind once"),
        ('output.kinds=["vidoe"]', "output.kinds[0]: expected"),
        ("scheduler.steps", 'expected an override like scheduler.steps=12, got "scheduler.steps"'),
        ("steps", 'expected an override like scheduler.steps=12, got "steps", did you mean'),
        ("=3", 'expected an override like scheduler.steps=12, got "=3"'),
        ("", 'expected an override like scheduler.steps=12, got ""'),
        ("a..b=3", 'expected an override like scheduler.steps=12, got "a..b=3"'),
        ("a b=3", 'expected an override like scheduler.steps=12, got "a b=3"'),
        ("\x1b[31m=3", 'expected an override like scheduler.steps=12, got "\\x1b[31m=3"'),
        (f"{'prom' + '9' * 5000}=3", f"prom{'9' * 193}...: unknown key"),
        # half a pair of surrogates, as bytes of a command line come that are not UTF-8
        ("noise=\ud800", "noise: expected text that is valid Unicode"),
        ('output.kinds=["\udcff"]', "output.kinds[0]: expected text that is valid Unicode"),
    ],
)
def test_refusals_are_one_line_that_names_the_key(override: str, line: str) -> None:
    with pytest.raises(PresetError) as caught:
        load_preset("micro", [override])
    assert str(caught.value).startswith(line)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_text_that_is_not_unicode_beside_another_fault_is_one_line_too() -> None:
    with pytest.raises(PresetError) as caught:
        load_preset("micro", ["seed=x", "noise=\ud800", "prompt=\ud800"])
    assert str(caught.value).isprintable()


def test_steps_that_contradict_the_sigmas_are_refused_not_ignored() -> None:
    with pytest.raises(PresetError, match=r"scheduler\.steps: expected 2, the number of .*got 3"):
        load_preset("micro", ["scheduler.sigmas=[1.0,0.5]", "scheduler.steps=3"])


def test_values_are_taken_as_they_are() -> None:
    spec = load_preset("micro", ["prompt=no"], values={"prompt": '"quoted"', "scheduler.steps": 3})
    assert (spec.prompt, spec.scheduler.steps) == ('"quoted"', 3)


def test_values_of_a_wrong_type_name_the_key() -> None:
    with pytest.raises(PresetError, match=r"^seed: expected an integer"):
        load_preset("micro", values={"seed": "7"})
    with pytest.raises(PresetError, match=r"^sed: unknown key, did you mean seed"):
        load_preset("micro", values={"sed": 7})
