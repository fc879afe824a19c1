"""Options of the settings of a run, which several commands share, so that they mean and say the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from presets.output.formats import choice_of_endings
from tui.cli.completion import complete_setting
from tui.cli.options import overwrite_option
from tui.cli.settings.media import check_media, media_options
from tui.cli.settings.prompts import prompt_option
from tui.cli.settings.seeds import drawn_in, drawn_seed, seed_option

if TYPE_CHECKING:
    from presets.spec.run import RunSpec

F = TypeVar("F", bound=Callable[..., Any])

expand_option = click.option(
    "--expand",
    is_flag=True,
    help="Have a language model write the prompt out first; components.prompt_expander says which.",
)
output_option = click.option(
    "--output",
    metavar="FILE",
    help=f"Where the video goes, in the format of its ending: {choice_of_endings()}. {{run}} in it becomes the run's "
    "id.  [default: modiff-{run}.mp4]",
)


@dataclass(frozen=True, slots=True)
class Given:
    """What options say of a run. values: by its keys. media: those of them that are of what it begins from. overrides:
    as `--set`, `--add` and `--remove` take them, in their order. Seeds are drawn."""

    values: Mapping[str, object]
    media: Mapping[str, object]
    overrides: tuple[str, ...]

    @property
    def prompt(self) -> str | None:
        """That of `--prompt`."""
        prompt = self.values.get("prompt")
        return prompt if isinstance(prompt, str) else None

    def of_preset(self, preset: str, **more: object) -> tuple[RunSpec, str]:
        """A preset, or what wrote a file, with what is given, as of `load_settings`. more: other options, by the names
        of keys with `__` for a dot. Raises UsageError where a strength is of no video, and as `load_settings`."""
        from tui.cli.run_of_file import load_settings

        values = {**self.values, **_named(more)}
        spec, preset = load_settings(preset, self.overrides, values=values)
        check_media(self.media, self.overrides, spec)
        return spec, preset

    @property
    def as_overrides(self) -> list[str]:
        """All of it as `presets.settings.overrides` has it."""
        from presets.settings.overrides import toml_value

        told = (f"{key}={toml_value(value)}" for key, value in self.values.items())
        return [*self.overrides, *told]


def settings_options(command: F) -> F:
    """--prompt, --negative-prompt and --seed, those of `media_options`, --set, --add, --remove and --overwrite; the
    command gets one argument for them, `given`. Above `manner_options`."""

    @wraps(command)
    def with_given(*arguments: Any, media: Mapping[str, object], **options: Any) -> Any:
        quiet = bool(options.get("quiet"))
        values = _named(
            {
                "prompt": options.pop("prompt"),
                "negative_prompt": options.pop("negative_prompt"),
                "seed": drawn_seed(options.pop("seed"), quiet=quiet),
                "output__overwrite": options.pop("overwrite"),
            }
        )
        overrides = drawn_in(options.pop("overrides"), quiet=quiet)
        given = Given({**values, **media}, media, overrides)
        return command(*arguments, given=given, **options)

    return _prompt_options(media_options(set_option(overwrite_option(with_given))))  # type: ignore[return-value]


def _named(options: Mapping[str, object]) -> dict[str, object]:
    """The options that were given, by the keys of a run that they set: `__` in a name is a dot."""
    return {
        name.replace("__", "."): value
        for name, value in options.items()
        if value is not None and value is not False
    }


class _Signed(click.Option):
    """An option whose values join those of `--set`, in the order typed, with a sign before each."""

    def __init__(self, *args: Any, sign: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sign = sign

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        super().add_to_parser(parser, ctx)
        for name in self.opts:
            option = parser._long_opt[
                name
            ]  # click has no other way to tell options of one list apart
            option.process = partial(self._take, option.process)

    def _take(self, take: Callable[[str, Any], None], value: str, state: Any) -> None:
        take(self.sign + value, state)


def set_option(command: F) -> F:
    """--set, --add and --remove: one list of overrides (`presets.settings.overrides`), in the order typed."""
    return _all_of(
        command,
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            shell_complete=complete_setting,
            help="Change one setting, for example scheduler.steps=12. Repeatable, applied in order "
            "with --add and --remove; `modiff presets show --keys` lists the keys.",
        ),
        click.option(
            "--add",
            "overrides",
            cls=_Signed,
            sign="+",
            metavar="LIST=VALUE",
            multiple=True,
            help="Append an item to a list, for example extensions.name=teacache. Repeatable; "
            "--set 'extensions[-1]...' goes on with it.",
        ),
        click.option(
            "--remove",
            "overrides",
            cls=_Signed,
            sign="-",
            metavar="ITEM",
            multiple=True,
            help="Take an item out of a list, for example 'extensions[0]'. Repeatable.",
        ),
    )


def _prompt_options(command: F) -> F:
    return _all_of(
        command,
        click.option(
            "--prompt",
            callback=prompt_option,
            metavar="TEXT",
            help="What to show; @FILE is the text of a file, @@ begins a text with @.",
        ),
        click.option(
            "--negative-prompt",
            callback=prompt_option,
            metavar="TEXT",
            help="What to steer away from; @FILE as of --prompt.",
        ),
        click.option(
            "--seed",
            callback=seed_option,
            metavar="N",
            help="Seed of the initial noise, 0 to 2^64 - 1; random draws one and tells it.",
        ),
    )


def _all_of(command: F, *options: Callable[[F], F]) -> F:
    """The command with these options, in their order."""
    for option in reversed(options):
        command = option(command)
    return command
