"""What is tried when memory ends, in which order and in which words."""

from __future__ import annotations

import pytest

from engine.fit.lighter import Ended, Lightening, given_up, lighter
from presets.library.loading import load_preset
from presets.spec.run import RunSpec

IDLE = "without the models that are idle"


def spec(*overrides: str) -> RunSpec:
    return load_preset("wan2.1-t2v-14b", list(overrides))


def tried(begun: RunSpec, ended: Ended, *, has_room: bool = True) -> list[tuple[str, RunSpec]]:
    """What is tried where memory ends again and again at one place."""
    lightening = Lightening(begun)
    found = []
    while (step := lightening.next(ended, has_room=has_room)) is not None:
        found.append((step.told, step.spec))
    assert lightening.spec == begun  # nothing was made with the others
    assert list(lightening.tried(ended)) == [told for told, _ in found]
    return found


def test_a_decode_goes_in_smaller_pieces_and_at_last_to_the_cpu() -> None:
    found = tried(spec(), Ended("decode", "vae"))
    assert [told for told, _ in found] == [
        IDLE,
        "with tiles of 512 pixels (approximate)",
        "with tiles of 256 pixels (approximate)",
        "with tiles of 128 pixels (approximate)",
        "with 1 latent frame at a time",
        "with the VAE on the CPU",
    ]
    assert [
        (vae.tile_size, vae.tile_overlap, vae.chunk_frames, vae.device)
        for vae in (made.components.vae for _, made in found)
    ] == [
        (0, 64, 2, "auto"),
        (512, 64, 2, "auto"),
        (256, 64, 2, "auto"),
        (128, 64, 2, "auto"),
        (128, 64, 1, "auto"),
        (128, 64, 1, "cpu"),
    ]
    others = {made.components.denoiser for _, made in found}
    assert others == {spec().components.denoiser}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["width=384", "height=256"], ["256", "128", "1 latent"]),
        (["components.vae.tile_size=256"], ["128", "1 latent"]),
        (["components.vae.chunk_frames=0"], ["512", "256", "128", "2 latent", "1 latent"]),
        (["components.vae.chunk_frames=0", "frames=5"], ["512", "256", "128", "1 latent"]),
        (["components.vae.chunk_frames=1", "width=128", "height=128"], []),
    ],
)
def test_pieces_are_smaller_than_what_there_is(overrides: list[str], expected: list[str]) -> None:
    found = [told for told, _ in tried(spec(*overrides), Ended("decode", "vae", on_cpu=True))]
    assert len(found) == 1 + len(expected)
    assert all(word in told for word, told in zip(expected, found[1:], strict=True))


def test_an_overlap_stays_within_half_a_tile() -> None:
    begun = spec("components.vae.tile_size=512", "components.vae.tile_overlap=256")
    overlaps = [
        made.components.vae.tile_overlap for _, made in tried(begun, Ended("decode", "vae"))
    ]
    assert overlaps[:3] == [256, 128, 64]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("all", ["20", "0"]),
        ("auto", ["20", "0"]),
        ("7", ["3", "0"]),
        ("99", ["20", "0"]),
        ("1", ["0"]),
        ("6GB", ["3GB", "0"]),
        ("0.001GB", ["0"]),
        ("0", []),
    ],
)
@pytest.mark.parametrize("stage", ["load", "denoise"])
def test_of_the_denoiser_half_of_the_blocks_stay_and_then_none(
    wanted: str, expected: list[str], stage: str
) -> None:
    ended = Ended(stage, "denoiser", num_blocks=40)
    found = tried(spec(f"components.denoiser.resident_blocks={wanted}"), ended)
    assert [made.components.denoiser.resident_blocks for _, made in found[1:]] == expected


BLOCKS = ["with 20 blocks on the device at a time", "with no block kept on the device"]


@pytest.mark.parametrize(
    ("full", "other", "expected"),
    [
        ("cuda:1", "cuda:0", ["with both halves of the guidance on cuda:0", *BLOCKS]),
        ("cuda:0", "cuda:1", ["with both halves of the guidance on cuda:1", *BLOCKS]),
        ("cuda:0", "cpu", [*BLOCKS, "with both halves of the guidance on cpu"]),
    ],
)
def test_both_halves_of_the_guidance_go_where_there_is_memory(
    full: str, other: str, expected: list[str]
) -> None:
    """A copy is there already; on the CPU its steps take longer than blocks that come."""
    places = [f"components.denoiser.{at}" for at in (f"device={full}", f"guidance_device={other}")]
    ended = Ended("denoise", "denoiser", num_blocks=40, other_device=other)
    found = tried(spec(*places), ended)[1:]
    assert [told for told, _ in found] == expected
    denoiser = found[-1][1].components.denoiser
    assert (denoiser.device, denoiser.guidance_device) == (other, "")


def test_noise_that_is_drawn_on_the_device_of_the_denoiser_stays_what_it_is() -> None:
    halves = ["components.denoiser.device=cuda:0", "components.denoiser.guidance_device=mps"]
    begun = spec("noise=wan", *halves)
    beside = tried(begun, Ended("denoise", "denoiser", other_device="cuda:0"))
    first = tried(begun, Ended("denoise", "denoiser", other_device="mps"))
    assert (len(beside), len(first)) == (2, 1)


@pytest.mark.parametrize("kind", ["text_encoder", "image_encoder", "vae"])
def test_what_cannot_be_loaded_goes_to_the_cpu(kind: str) -> None:
    (_, idle), (told, moved) = tried(spec(), Ended("load", kind))
    assert idle == spec()
    assert told.endswith("on the CPU")
    assert getattr(moved.components, kind).device == "cpu"
    assert [told for told, _ in tried(spec(), Ended("load", kind, on_cpu=True))] == [IDLE]


@pytest.mark.parametrize(
    "ended",
    [
        Ended("mux"),
        Ended("expand", "prompt_expander"),
        Ended("decode", "vae", is_own=False),
        Ended("denoise", "denoiser", is_own=False, num_blocks=40),
    ],
)
def test_where_no_setting_would_help_only_what_is_idle_goes(ended: Ended) -> None:
    assert [told for told, _ in tried(spec(), ended)] == [IDLE]
    assert tried(spec(), ended, has_room=False) == []


def test_steps_that_hang_on_the_tiles_are_not_lost_for_smaller_ones() -> None:
    found = [told for told, _ in tried(spec(), Ended("decode", "vae", is_fixed=True))]
    assert found == [IDLE, "with the VAE on the CPU"]


def test_nothing_is_tried_twice_in_a_run() -> None:
    lightening = Lightening(spec())
    loading, denoising = (Ended(stage, "denoiser", num_blocks=40) for stage in ("load", "denoise"))
    told = [
        (step := lightening.next(ended, has_room=False)) and step.told
        for ended in (loading, denoising, denoising)
    ]
    assert told == [
        "with 20 blocks on the device at a time",
        "with no block kept on the device",
        None,
    ]
    # what helped to load it stays
    assert lightening.spec.components.denoiser.resident_blocks == "20"
    assert lighter(spec(), denoising, ["idle denoise denoiser", "no blocks"]) is not None


def test_settings_that_a_run_cannot_have_are_passed_over() -> None:
    """A budget that is too small for block swap, say."""
    lightening = Lightening(spec("components.denoiser.resident_blocks=6GB"))
    step = lightening.next(
        Ended("denoise", "denoiser", num_blocks=40),
        has_room=False,
        is_possible=lambda wanted: wanted.components.denoiser.resident_blocks != "3GB",
    )
    assert step is not None
    assert step.told == "with no block kept on the device"


@pytest.mark.parametrize(
    ("ended", "words", "told"),
    [
        (
            Ended("decode", "vae"),
            [IDLE, "with tiles of 512 pixels (approximate)"],
            f"out of memory in decode, also {IDLE}, with tiles of 512 pixels (approximate); the latents are kept: "
            "close what else takes memory, and `modiff resume abc`",
        ),
        (
            Ended("load", "text_encoder"),
            [],
            "out of memory in load of the text encoder; close what else takes memory, or take smaller weights",
        ),
        (
            Ended("denoise", "denoiser"),
            [IDLE],
            f"out of memory in denoise, also {IDLE}; try fewer frames or a smaller size",
        ),
    ],
)
def test_the_end_is_one_line_with_what_to_do(ended: Ended, words: list[str], told: str) -> None:
    assert given_up(ended, words, "abc") == told
