"""How a run samples: its scheduler, its guidance, and the extensions that change the denoiser's work."""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from presets.spec.values import ComponentName, Options


class SchedulerSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # the names of `engine.schedulers.course.SOLVERS`, which a test holds to these
    name: Annotated[
        Literal["unipc", "dpm++", "sde-dpm++", "euler"],
        Meta(description="the solver; sde-dpm++ adds fresh noise at each step"),
    ] = "unipc"
    steps: Annotated[
        int, Meta(ge=1, le=1000, description="model evaluations, before guidance doubles them")
    ] = 50
    shift: Annotated[
        float,
        Meta(
            ge=0.01, le=100, description="timestep shift: above 1 spends more steps on high noise"
        ),
    ] = 5.0
    grid: Annotated[
        Literal["wan", "diffusers"],
        Meta(
            description="whose spacing of sigmas: the published code's, or that of diffusers' UniPC"
        ),
    ] = "wan"
    sigmas: Annotated[
        tuple[Annotated[float, Meta(ge=1e-4, le=1)], ...],
        Meta(
            max_length=1000,
            description="custom sigmas, descending, without the final 0; they decide the steps",
        ),
    ] = ()


Scale = Annotated[float, Meta(ge=0, le=100)]
_PIECE = "{from = 0.0, to = 0.4, scale = 6.0}"


class GuidancePiece(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scale for some of a run's steps; start and stop are shares of them, written `from` and `to`."""

    start: Annotated[
        float, Meta(ge=0, le=1, description="share of the steps at which it begins")
    ] = msgspec.field(name="from")
    stop: Annotated[
        float, Meta(ge=0, le=1, description="share of the steps before which it ends")
    ] = msgspec.field(name="to")
    scale: Annotated[Scale, Meta(description="classifier-free guidance of these steps")]


class GuidanceSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """scale: of all steps, of each step, or of pieces of the run; `guidance.scales` has one for each."""

    scale: Annotated[
        Scale
        | Annotated[
            tuple[
                Scale
                | Annotated[GuidancePiece, Meta(extra={"expected": f"a piece like {_PIECE}"})],
                ...,
            ],
            Meta(min_length=1, max_length=1000),
        ],
        Meta(
            description="classifier-free guidance; 1 is none, with one model call a step, as outside of all pieces",
            extra={
                "expected": "a finite number >= 0 and <= 100, an array of one for each step, "
                f"or an array of pieces like {_PIECE}"
            },
        ),
    ] = 5.0


class ExtensionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[
        ComponentName, Meta(description="which extension", extra={"role": "component:extension"})
    ]
    enabled: Annotated[
        bool,
        Meta(
            description="off: it stays in the list, and the run is as if it were not there",
            extra={"role": "switch"},
        ),
    ] = True
    options: Annotated[
        Options,
        Meta(
            max_length=64,
            description="the extension's own options",
            extra={"role": "options:extension"},
        ),
    ] = {}
