"""What a run takes in memory, as people read it."""

from __future__ import annotations

from engine.fit.answering import Device
from engine.fit.options import Fit, Option
from engine.fit.work import Brought, Memory, Use
from tui.describe.memory import (
    bar_line,
    expected_lines,
    fit_lines,
    memory_lines,
    memory_rows,
    planned_peak,
)

GIB = 1 << 30


def use(stage: str, device: str, peak: int, weights: int = 0, kept: int = 0) -> Use:
    return Use(stage, device, peak, weights, kept, "mul", "blocks.0" if weights else "")


MEMORY = Memory(
    (
        use("text_encode", "cuda:0", 11 * GIB, 10 * GIB),
        use("text_encode", "cpu", 4096),
        use("denoise", "cuda:0", 30 * GIB, 18 * GIB, 10 * GIB),
        use("decode", "cuda:0", 32 * GIB, GIB, 28 * GIB),
        use("decode", "cpu", GIB),
        use("decode", "cuda:1", 2 * GIB, kept=2 * GIB),
    ),
    ("image_encode: remote runs elsewhere, or is not ours",),
)


def test_rows_leave_out_what_is_small_beside_another_device() -> None:
    assert memory_rows(MEMORY) == [
        ("text_encode", "cuda:0", "11.0 GiB", "10.0 GiB", "", "blocks.0: mul"),
        ("denoise", "cuda:0", "30.0 GiB", "18.0 GiB", "10.0 GiB", "blocks.0: mul"),
        ("decode", "cuda:0", "32.0 GiB", "1.0 GiB", "28.0 GiB", "blocks.0: mul"),
        ("decode", "cpu", "1.0 GiB", "", "", "mul"),
    ]


def test_lines_name_the_largest_of_each_device_with_and_without_what_stays() -> None:
    assert list(memory_lines(MEMORY, 16 * GIB)) == [
        "at most 32.0 GiB of cuda:0, in decode; 20.0 GiB, in denoise, where others make room",
        "at most 1.0 GiB of cpu, in decode, and this machine has 16.0 GiB",
        "not counted: image_encode: remote runs elsewhere, or is not ours",
    ]


def test_what_is_expected_is_the_most_of_each_device_with_the_margin() -> None:
    expected = {"denoise": {"cuda:0": 9 * GIB, "cpu": GIB}, "decode": {"cuda:0": 8 * GIB}}
    margins = {"cuda:0": "with 5 % on top", "cpu": "with 10 % on top"}
    assert list(expected_lines(expected, margins)) == [
        "expected: 9.0 GiB of cuda:0 (with 5 % on top)",
        "expected: 1.0 GiB of cpu (with 10 % on top)",
    ]


def test_what_is_read_and_what_waits_on_the_host() -> None:
    brought = (
        Brought("text_encoder", "cpu", 11 * GIB, 0),
        Brought("denoiser", "cuda:0", 57 * GIB, 21 * GIB),
        Brought("vae", "cuda:0", 0, 0),
    )
    assert list(memory_lines(Memory(MEMORY.uses, (), brought), GIB))[2:] == [
        "read from files: 68.0 GiB (text encoder 11.0 GiB, denoiser 57.0 GiB)",
        "blocks of the denoiser, 21.0 GiB, come to cuda:0 for each call: from the host's memory, which that takes, or "
        "from their file",
    ]
    (line,) = memory_lines(
        Memory((use("denoise", "cpu", 1),), (), (Brought("denoiser", "cpu", 0, GIB),)), GIB
    )
    assert line == "blocks of the denoiser, 1.0 GiB, come from their file for each call"


def test_nothing_to_compute() -> None:
    assert memory_rows(Memory(())) == []
    (line,) = memory_lines(Memory(()), GIB)
    assert "nothing of it is to be computed" in line


def test_a_bar_for_what_is_here_and_a_word_for_what_is_too_much() -> None:
    half = Device("cuda:0", 12 << 30, 24 << 30, "text_encode")
    assert bar_line(half, 60) == "cuda:0 12.0 of 24.0 GiB ▕████    ▏ in text encode"
    assert bar_line(half, 45) == "cuda:0 12.0 of 24.0 GiB ▕██  ▏ in text encode"
    assert bar_line(half, 40) == "cuda:0 12.0 of 24.0 GiB in text encode"
    much = Device("cpu", 30 << 30, 24 << 30, "denoise")
    assert bar_line(much, 60) == "cpu ▲ 30.0 of 24.0 GiB ▕████████▏ in denoise"
    assert bar_line(Device("cuda:1", 30 << 30, None, "denoise"), 60) == "cuda:1 30.0 GiB in denoise"


def test_what_is_drawn_beside_a_run_is_the_most_that_its_plan_told() -> None:
    def words(**peaks: dict[str, int]) -> str:
        planned = planned_peak(peaks)
        return planned.words if planned else ""

    assert words() == ""
    assert words(denoise={"cpu": 2**30}, decode={"cpu": 2**31}) == "planned 2.0 GiB, in decode"
    assert words(text_encode={"cpu": 2**34}, denoise={"cuda:0": 2**33, "cpu": 9}) == (
        "planned 8.0 GiB, in denoise"
    )
    # what a stage on the CPU has on a GPU beside it says nothing
    assert words(decode={"cpu": 2**34, "cuda:0": 9}) == "planned 16.0 GiB, in decode"


def test_what_fits_is_told_as_it_is_set_and_with_what_is_marked() -> None:
    swapped = Option(
        "denoiser",
        "cuda:0",
        ("denoise",),
        {"components.denoiser.resident_blocks": "3"},
        "exact",
        {"cuda:0": 11 * GIB},
        fits=True,
        is_chosen=True,
    )
    needed = {"denoise": {"cuda:0": 30 * GIB}, "decode": {"cuda:0": 10 * GIB}}
    fit = Fit({"cuda:0": 12 * GIB}, needed, (swapped,))
    assert list(fit_lines(fit, {"cuda:0": "as told"})) == [
        "cuda:0: as it is set 30.0 GiB at most, in denoise, more than 12.0 GiB (as told)",
        "cuda:0: with what is marked 11.0 GiB at most, which fits",
    ]
    assert list(fit_lines(Fit({}, {}, ()), {})) == [
        "nothing of it is to be computed on a model, so that it fits anything"
    ]
