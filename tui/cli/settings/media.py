"""The options that say what a run begins from and its size: pictures, a video and how much of it stays, width and
height."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tui.cli.completion import complete_file

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.store import Store

F = TypeVar("F", bound=Callable[..., Any])

# option, what it takes, the key that it sets, help
_OPTIONS = (
    ("image", "FILE", "image.path", "The picture to begin from, with a preset of image to video."),
    (
        "last-image",
        "FILE",
        "last_image.path",
        "The picture to end with, with a preset of first and last frame to video.",
    ),
    (
        "video",
        "FILE",
        "video.path",
        "A video to begin from: how it moves stays, more or less, and the prompt says what is seen.",
    ),
    (
        "strength",
        "S",
        "video.strength",
        "How much of --video is made anew: the share of the steps that are done on it, above 0 and up to 1.",
    ),
    (
        "sigma",
        "S",
        "video.sigma",
        "The noise level, above 0 and up to 1, that --video begins at, instead of --strength.",
    ),
    ("width", "W", "width", "Pixels, a multiple of 16; 0 leaves it to the picture or the video."),
    ("height", "H", "height", "Pixels, as --width."),
)


def media_options(command: F) -> F:
    """--image, --last-image, --video, --strength, --sigma, --width and --height.

    The command gets one argument, `media`: those that were given, by the keys of a run that they set.
    """

    @wraps(command)
    def with_media(*arguments: Any, **options: Any) -> Any:
        every = {key: options.pop(name.replace("-", "_")) for name, _, key, _ in _OPTIONS}
        media = {key: value for key, value in every.items() if value is not None}
        if "video.strength" in media:
            if "video.sigma" in media:
                raise click.UsageError("--strength and --sigma say the same; give one of them")
            media["video.sigma"] = 0.0  # a preset may go by that
        return command(*arguments, media=media, **options)

    described: Any = with_media
    for name, takes, key, help in reversed(_OPTIONS):
        described = click.option(
            f"--{name}",
            callback=_value_of(key, is_text=takes == "FILE"),
            metavar=takes,
            shell_complete=complete_file if takes == "FILE" else None,
            help=help,
        )(described)
    return described  # type: ignore[no-any-return]


def check_media(media: Mapping[str, object], overrides: Iterable[str], spec: RunSpec) -> None:
    """Raises UsageError where a strength is given, and no video that it is of. overrides: as `--set` takes them."""
    for name, _, key, _ in _OPTIONS:
        if key.startswith("video.") and media.get(key) and not spec.video.path:
            raise click.UsageError(
                f"--{name} says how much of a video is made anew; give one with --video"
            )
    check_varied([assignment.partition("=")[0].strip() for assignment in overrides], spec)


def check_varied(keys: Iterable[str], spec: RunSpec) -> None:
    """Raises UsageError where how much of a video stays is set or varied, and there is none."""
    key = next((key for key in keys if key in ("video.strength", "video.sigma")), "")
    if key and not spec.video.path:
        raise click.UsageError(
            f"{key} says how much of a video is made anew; give one with --video"
        )


def check_continued(continued: str | None, media: Mapping[str, object], spec: RunSpec) -> None:
    """Raises UsageError where a run cannot begin from the last frame of another."""
    from presets.tasks import PICTURES

    if continued is None:
        return
    if media.get("image.path"):
        raise click.UsageError("--continue is the picture to begin from; leave out --image")
    if "image" not in PICTURES[spec.task]:
        raise click.UsageError(
            "--continue begins from a picture; take a preset of image to video, such as micro-i2v or "
            "wan2.1-i2v-14b-480p"
        )


def going_on(store: Store, run: str, spec: RunSpec) -> tuple[RunSpec, str]:
    """The settings with the last frame of a run as their first picture, and the id of that. Raises InputError,
    UnknownRun."""
    from engine.inputs.last_frame import last_frame
    from presets.library.loading import override
    from tui.cli.run_of_file import resolve_run

    run_id = resolve_run(store, run)
    return override(spec, values={"image.path": str(last_frame(store, run_id))}), run_id


def _value_of(key: str, *, is_text: bool) -> Callable[..., object]:
    """The callback of an option that sets a key: the value that its text means."""

    def callback(_ctx: click.Context, _param: click.Parameter, text: str | None) -> object:
        from presets.errors import PresetError
        from presets.settings.overrides import parse_changes, text_override

        if text is None:
            return None
        try:
            (change,) = parse_changes([text_override(key, text) if is_text else f"{key}={text}"])
        except PresetError as error:
            raise click.BadParameter(error.problem) from None
        if (
            key == "video.sigma" and change.value == 0
        ):  # in a preset: by strength, which is asked for by name here
            raise click.BadParameter(
                "expected a noise level > 0 and <= 1, got 0, at which no step is left; --strength goes by steps"
            )
        return change.value

    return callback
