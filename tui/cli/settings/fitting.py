"""`--fit [GB]`: what to set so that a run fits."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from tui.text import columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.fit.options import Fit
    from presets.spec.run import RunSpec
    from store.store import Store

_FREE = "free"

fit_option = click.option(
    "--fit",
    "fit",
    is_flag=False,
    flag_value=_FREE,
    metavar="[GB]",
    help="Find the cheapest settings with which the run fits a device of so many GB; without a number, what is free "
    "now. Some seconds the first time.",
)


def limit_of(text: str) -> int | None:
    """Bytes; None for what is free."""
    if text == _FREE:
        return None
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e5:
        raise click.BadParameter(
            f"{text!r} is no size; expected GB, such as --fit 12, or nothing after it for what is free",
            param_hint="--fit",
        )
    return int(gigabytes * 1e9)


@dataclass(frozen=True)
class Fitting:
    """smaller: what makes a run smaller that fits where this one does not, and what is to be set for it."""

    fit: Fit
    smaller: tuple[Mapping[str, str], Fit] | None

    def lines(self, preset: str, overrides: Sequence[str]) -> Iterator[str]:
        yield from _told(self.fit)
        if not self.fit.misses:
            if self.fit.settings:
                yield f"apply it:  {_command(preset, overrides, self.fit.settings)}"
            return
        if self.smaller is None:
            yield "nor does a smaller size or fewer frames"
            return
        changed, fit = self.smaller
        yield ""
        yield f"with {' '.join(f'{key}={value}' for key, value in changed.items())} it fits:"
        yield from _told(fit)
        yield f"apply it:  {_command(preset, overrides, {**changed, **fit.settings})}"

    def as_json(self, preset: str) -> dict[str, Any]:
        from msgspec import to_builtins

        found = to_builtins(self.fit) | {"settings": self.fit.settings, "smaller": None}
        if self.smaller is not None:
            changed, fit = self.smaller
            found["smaller"] = {
                "changes": dict(changed),
                **to_builtins(fit),
                "settings": fit.settings,
            }
        return found


def fitting_of(store: Store, spec: RunSpec, text: str) -> Fitting:
    from tui.describe.fitting import fitted, smaller

    limit = limit_of(text)
    fit = fitted(store, spec, limit)
    return Fitting(fit, smaller(store, spec, limit) if fit.misses else None)


def applied(store: Store, spec: RunSpec, text: str) -> tuple[RunSpec, tuple[str, ...]]:
    """The run with what makes it fit, and what there is to say of that. Raises click.ClickException where nothing
    does."""
    from presets.library.loading import override

    found = fitting_of(store, spec, text)
    if found.fit.misses:
        stages = " and ".join(found.fit.misses)
        hint = (
            f"; with {' '.join(f'{k}={v}' for k, v in found.smaller[0].items())} it does"
            if found.smaller
            else ""
        )
        raise click.ClickException(
            f"nothing makes {stages} fit{hint}; see `modiff plan` with --fit"
        )
    settings = [f"{key}={value}" for key, value in found.fit.settings.items()]
    notes = tuple(f"to fit: {setting}" for setting in settings)
    return override(spec, settings), notes or ("it fits as it is",)


def _told(fit: Fit) -> Iterator[str]:
    from tui.describe.memory import FIT_HEADINGS, fit_lines, fit_rows, margin

    rows = fit_rows(fit)
    yield from (line.rstrip() for line in columns([FIT_HEADINGS, *rows] if rows else []))
    yield from fit_lines(fit, {device: margin(each) for device, each in fit.learned.items()})


_SIGNS = {"+": "--add", "-": "--remove"}


def _command(preset: str, overrides: Sequence[str], settings: Mapping[str, str]) -> str:
    words: list[str] = []
    for text in (*overrides, *(f"{key}={value}" for key, value in settings.items())):
        option = _SIGNS.get(text[:1], "--set")
        words += [option, text[1:] if option != "--set" else text]
    return shlex.join(["modiff", "run", preset, *words])
