"""What a run would take in memory, as rows for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from tui.text import counted
from tui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.fit.answering import Device
    from engine.fit.learned import Learned
    from engine.fit.options import Fit, Option
    from engine.fit.work import Memory, Use

HEADINGS = ("STAGE", "DEVICE", "PEAK", "WEIGHTS", "OTHERS", "AT")

# what nobody needs to see of a stage that works on another device
_SMALL_BYTES = 10**6


def memory_rows(memory: Memory) -> list[tuple[str, ...]]:
    """Stage, device, peak, of it the stage's own weights and those of other models that stay loaded, and what was made
    last: for each stage its largest device, and others on which it takes something of note itself."""
    most: dict[str, int] = {}
    for use in memory.uses:
        most[use.stage] = max(most.get(use.stage, 0), use.peak_bytes)
    return [
        _row(use)
        for use in memory.uses
        if use.peak_bytes == most[use.stage]
        or (use.peak_bytes >= _SMALL_BYTES and use.peak_bytes > use.kept_bytes)
    ]


@dataclass(frozen=True, slots=True)
class Planned:
    """The most that a plan told of a device, and in which stage."""

    num_bytes: int
    device: str
    stage: str

    @property
    def words(self) -> str:
        return f"planned {size(self.num_bytes)}, in {self.stage}"


def planned_peak(peak_bytes: Mapping[str, Mapping[str, int]]) -> Planned | None:
    """Of what a plan told, the most on a GPU where it uses one, else of host memory. peak_bytes: stage -> device ->
    bytes."""
    found = [
        Planned(num_bytes, device, stage)
        for stage, by_device in peak_bytes.items()
        for device, num_bytes in by_device.items()
    ]
    most = max(found, key=lambda each: each.num_bytes, default=None)
    on_gpu = [each for each in found if each.device != "cpu" and each.num_bytes >= _SMALL_BYTES]
    return max(on_gpu, key=lambda each: each.num_bytes, default=most)


def memory_lines(memory: Memory, total_bytes: int) -> Iterator[str]:
    """What follows from the rows. total_bytes: the memory of this machine."""
    for device, use in memory.largest.items():
        if use.peak_bytes >= _SMALL_BYTES and use.peak_bytes > use.kept_bytes:
            here = f", and this machine has {size(total_bytes)}" if device == "cpu" else ""
            yield f"at most {size(use.peak_bytes)} of {device}, in {use.stage}{_alone(memory, use)}{here}"
    yield from _brought(memory)
    for line in memory.uncounted:
        yield f"not counted: {line}"
    if not memory.uses and not memory.uncounted:
        yield "nothing of it is to be computed on a model, so that it takes no memory to speak of"


def expected_lines(
    expected: Mapping[str, Mapping[str, int]], margins: Mapping[str, str]
) -> Iterator[str]:
    """What a run is expected to take, as Live draws it. expected: as of `engine.fit.learned.expected`; margins: device
    -> as of `margin`."""
    most = dict[str, int]()
    for of_stage in expected.values():
        for device, num_bytes in of_stage.items():
            most[device] = max(most.get(device, 0), num_bytes)
    for device, num_bytes in most.items():
        yield f"expected: {size(num_bytes)} of {device} ({margins[device]})"


def _brought(memory: Memory) -> Iterator[str]:
    read = {each.kind: each.read_bytes for each in memory.brought if each.read_bytes}
    if read:
        parts = ", ".join(f"{_words(kind)} {size(num_bytes)}" for kind, num_bytes in read.items())
        yield f"read from files: {size(sum(read.values()))} ({parts})"
    for each in memory.brought:
        if not each.moved_bytes:
            continue
        blocks = f"blocks of the {_words(each.kind)}, {size(each.moved_bytes)}, come"
        if each.device == "cpu":
            yield f"{blocks} from their file for each call"
        else:
            yield (
                f"{blocks} to {each.device} for each call: from the host's memory, which that takes, or from their file"
            )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _alone(memory: Memory, largest: Use) -> str:
    """What a device needs where nothing stays loaded that is not in use."""
    if not largest.kept_bytes:
        return ""
    on_it = [use for use in memory.uses if use.device == largest.device]
    alone = max(on_it, key=lambda use: use.peak_bytes - use.kept_bytes)
    needed = size(alone.peak_bytes - alone.kept_bytes)
    return f"; {needed}, in {alone.stage}, where others make room"


def _row(use: Use) -> tuple[str, ...]:
    parts = (use.weights_bytes, use.kept_bytes)
    shares = (size(num_bytes) if num_bytes else "" for num_bytes in parts)
    place = f"{use.module}: {use.operation}" if use.module else use.operation
    return use.stage, use.device, size(use.peak_bytes), *shares, place


FIT_HEADINGS = ("", "SET", "NEEDS", "PRICE")

# what a bus of a common machine takes over, in bytes a second
_BUS = 25e9
_NUMBERS = {
    "exact": "exact",
    "rounded": "the same up to rounding",
    "approximate": "approximate: see docs/fit.md",
}


def fit_rows(fit: Fit) -> list[tuple[str, ...]]:
    """What was looked at: a mark where it is chosen, the settings, what is needed then, and the price."""
    return [
        (
            "▶" if option.is_chosen else "",
            " ".join(
                f"{key.removeprefix('components.')}={value}"
                for key, value in option.settings.items()
            ),
            _needs(option, fit),
            "; ".join(filter(None, (_NUMBERS[option.numbers], _price(option)))),
        )
        for option in fit.options
    ]


def fit_lines(fit: Fit, margins: Mapping[str, str]) -> Iterator[str]:
    """What is needed as the run is set, and whether that fits. margins: device -> as of `margin`."""
    for device, limit in fit.limits.items():
        uses = {stage: of[device] for stage, of in fit.needed_bytes.items() if device in of}
        if not uses:
            continue
        stage = max(uses, key=lambda each: uses[each])
        word = "fits" if uses[stage] <= limit else "more than"
        yield (
            f"{device}: as it is set {size(uses[stage])} at most, in {stage}, {word} {size(limit)} ({margins[device]})"
        )
        if uses[stage] > limit and not fit.misses:
            with_all = max(_as_chosen(fit, device), default=0)
            yield f"{device}: with what is marked {size(with_all)} at most, which fits"
    if not fit.needed_bytes:
        yield "nothing of it is to be computed on a model, so that it fits anything"
    for stage in fit.misses:
        alone = fit.alone_bytes.get(stage)
        why = (
            "nothing of this fits"
            if alone is None
            else f"its work alone needs {size(alone)}, however its weights are held"
        )
        yield f"{stage}: {why}"


def _as_chosen(fit: Fit, device: str) -> Iterator[int]:
    """What each component needs of a device with what is chosen for it."""
    chosen = [option for option in fit.options if option.is_chosen]
    changed = {stage for option in chosen for stage in option.stages}
    for option in chosen:
        yield option.needed_bytes.get(device, 0)
    for stage, of_device in fit.needed_bytes.items():
        if stage not in changed:
            yield of_device.get(device, 0)


def margin(learned: Learned) -> str:
    """What is added to what is told."""
    if not learned.ratios:
        return "with 10 % and 0.5 GB for the process assumed on top: no large run here yet"
    stages = counted(len(learned.ratios), "stage")
    more = f"{100 * (learned.ratio - 1):.0f} % and 0.5 GB for the process on top"
    return f"with {more}: learned from {stages} that ran here"


def _needs(option: Option, fit: Fit) -> str:
    limits = fit.limits
    told = {
        device: num_bytes
        for device, num_bytes in option.needed_bytes.items()
        if device == option.device or num_bytes > limits.get(device, num_bytes)
    }
    parts = [
        f"{size(num_bytes)} of {device}"
        + ("" if num_bytes <= limits.get(device, num_bytes) else ", too much")
        for device, num_bytes in told.items()
    ]
    return "; ".join(parts)


def _price(option: Option) -> str:
    if option.moved_blocks:
        moved = f"{option.moved_blocks} of {option.num_blocks} blocks"
        if option.device == "cpu":
            return (
                f"{moved} are read from their file at each step, {_gigabytes(option.moved_bytes)}"
            )
        seconds = option.moved_bytes / _BUS
        return (
            f"{moved} come over the bus at each step, {_gigabytes(option.moved_bytes)}: "
            f"{_seconds(seconds)} at 25 GB/s, hidden where the step takes longer than that; as much "
            "of the host's memory, or its file"
        )
    if option.settings.get(f"components.{option.kind}.device") == "cpu":
        return "on the CPU, which takes longer"
    if "components.vae.tile_size" in option.settings:
        return "1.3 to 1.8 times the work, and no frames before the last tile"
    if "components.vae.chunk_frames" in option.settings:
        return "more calls, each of fewer frames"
    if any(key.endswith(".unpack") for key in option.settings):
        return "weights are unpacked at each call"
    return ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.05 else "less than 0.1 s"


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 10**8 else f"{num_bytes / 1e6:.1f} MB"


_BAR = 8
_LEAST_BAR = 3
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar_line(device: Device, width: int) -> str:
    """`cuda:0 18.2 of 24 GiB ▕██████  ▏ in denoise`, what matters most first; where it has no room in `width` cells
    the bar is shorter, and then there is none. `cuda:0 ▲ 30.0 of 24.0 GiB ...` where that is too much, without a bar
    where the device is not here."""
    stage = _words(device.stage)
    needed = size(device.needed_bytes)
    if device.free_bytes is None:
        return f"{device.name} {needed} in {stage}"
    free = size(device.free_bytes)
    told = f"{needed.removesuffix(free[free.index(' ') :])} of {free}"
    mark = "" if device.needed_bytes <= device.free_bytes else "▲ "
    share = min(1.0, device.needed_bytes / max(1, device.free_bytes))
    line = f"{device.name} {mark}{told} in {stage}"
    room = min(_BAR, width - cell_len(line) - len("▕▏ "))
    if room < _LEAST_BAR:
        return line
    return f"{device.name} {mark}{told} ▕{_bar(share, room)}▏ in {stage}"


def _bar(share: float, cells: int) -> str:
    eighths = round(share * cells * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(cells)
