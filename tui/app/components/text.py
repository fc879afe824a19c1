"""Components, models, engines and the doctor's findings as rows and lines."""

from __future__ import annotations

import importlib.util
import time
from typing import TYPE_CHECKING, Any

from tui.app.widgets.listing import Column, Row
from tui.describe.doctor import lines as doctor_lines
from tui.describe.engines import held_words
from tui.describe.hosts import rows as host_rows
from tui.describe.models.files import block, of_wan, table
from tui.text import columns, printable
from tui.units import lasting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.checkpoints.library import Found
    from engine.remote.asking import Asked
    from store.lineage.records import EngineRecord
    from tui.describe.health import ComponentRow, Status

    # kind of attention backend or device: the doctor's row about it
    Findings = Mapping[str, Mapping[str, str]]

KINDS = {
    "text_encoder": "text encoder",
    "image_encoder": "image encoder",
    "denoiser": "denoiser",
    "vae": "VAE",
    "prompt_expander": "expander",
    "attention": "attention",
}
# names of components that another process runs
ELSEWHERE = ("remote", "openai", "llama.cpp")
HOSTS = (
    Column("", 1),
    Column("HOST", 10),
    Column("ADDRESS", 0),
    Column("TIME", 7, is_number=True),
    Column("LOAD", 12, from_width=70),
    Column("SERVES", 0),
)
PARTS = (
    Column("KIND", 12),
    Column("NAME", 14),
    Column("FROM", 0),
    Column("RUNS IN", 12, from_width=66),
    Column("HEALTH", 11),
)
MODELS = (
    Column("", 1),
    Column("MODEL", 20),
    Column("NUMBERS", 7),
    Column("SIZE", 8, is_number=True),
    Column("PATH", 0, keeps_end=True),
)
MARKS = {"ok": "✓", "absent": "–", "warn": "▲", "fail": "✖"}
MAX_BROKEN = 200
NO_ENGINE = (
    "○ no engine lives",
    "s starts one; so does every run that is queued. It keeps its models for the next run, and leaves when it has "
    "had nothing to do for a while.",
)
_WHAT = {
    "text_encoder": "Turns the prompt into the token states that the denoiser reads.",
    "image_encoder": "Turns the pictures of a run into the tokens that the denoiser of image to video reads.",
    "denoiser": "The diffusion transformer: says at every step how the latents should move.",
    "vae": "Turns latents into frames.",
    "prompt_expander": "Writes a short prompt out before the text is encoded.",
    "attention": "How the denoiser computes attention: the same function, at another speed.",
}


def parts(rows: Sequence[ComponentRow], findings: Findings) -> list[Row]:
    """Looks for third-party packages on the disk, and imports none."""
    return [
        Row(
            f"{row.kind}.{row.name}",
            (
                KINDS.get(row.kind, row.kind),
                row.name,
                row.origin,
                _runs_in(row),
                health(row, findings),
            ),
        )
        for row in rows
    ]


def _runs_in(row: ComponentRow) -> str:
    if row.kind == "attention":
        return "the denoiser"
    return "a server" if row.name in ELSEWHERE else "engine, auto"


def health(row: ComponentRow, findings: Findings) -> str:
    if row.kind == "attention":
        found = findings.get(row.name)
        if found is None:
            return "○ not tried"
        told = {"ok": "works", "absent": "not here", "fail": "fails"}
        return f"{MARKS.get(found['status'], '?')} {told.get(found['status'], found['status'])}"
    if row.origin == "modiff":
        return "✓ built in"
    package = row.origin.partition(":")[0].partition(".")[0]
    try:
        is_there = importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        is_there = False
    return "✓ installed" if is_there else "✖ is gone"


def hosts(asked: Sequence[Asked]) -> list[Row]:
    """A row's key is the name of the host."""
    return [
        Row(each.host.name, ("✖" if each.error else "✓", *cells))
        for each, cells in zip(asked, host_rows(asked), strict=True)
    ]


def about_part(
    row: ComponentRow, findings: Findings, devices: Sequence[Mapping[str, str]]
) -> list[str]:
    """All about one component."""
    lines = [_WHAT.get(row.kind, ""), ""]
    told = [("from", row.origin), ("health", health(row, findings))]
    if row.kind == "attention":
        found = findings.get(row.name)
        told.append(("set by", "components.denoiser.attention"))
        if found is not None:
            told += [("tried", found["value"]), ("what to do", found["hint"])]
    else:
        key = f"components.{row.kind}"
        told += [
            ("chosen by", f"name, and checkpoint for its weights, of {key}"),
            ("runs in", f"a server, whose address is {key}.url")
            if row.name in ELSEWHERE
            else ("runs in", "the engine's process, on this machine"),
            ("device", f"{key}.device: auto (the best that is there), cpu, cuda or cuda:N"),
        ]
        here = ", ".join(f"{each['name']} {each['value']}" for each in devices)
        told.append(("here", here or "d finds out which devices there are"))
    return lines + columns([(name, printable(value)) for name, value in told if value])


def models(found: Sequence[Found]) -> list[Row]:
    """Those of Wan, then what cannot be used; a row's key is its path."""
    known = of_wan(found)
    rows = [
        Row(
            str(each.path),
            ("✓" if loads == "yes" else "✖", variant, numbers, size, path),
        )
        for each, (variant, _, _, numbers, size, loads, path) in zip(
            known, table(known)[1:], strict=True
        )
    ]
    broken = [each for each in found if each.error]
    rows += [
        Row(f"broken {each.path}", ("✖", each.path.name, "", "", each.error))
        for each in broken[:MAX_BROKEN]
    ]
    return rows


def models_note(found: Sequence[Found]) -> str:
    """What the list of models leaves out, for its border."""
    num_broken = sum(bool(each.error) for each in found)
    num_others = len(found) - len(of_wan(found)) - num_broken
    told = [f"{num_broken} unusable"] if num_broken else []
    told += [f"{num_others} files not of Wan"] if num_others else []
    return ", ".join([*told, "more: modiff models add FOLDER"])


def about_model(found: Found) -> list[str]:
    return block(found) if found.recognition else ["cannot be used:", printable(found.error)]


def engines(status: Status | None, now_ns: int | None = None) -> list[str]:
    """A few lines for each engine; what changes every second is left out of them."""
    if status is None:
        return ["…"]
    now = time.time_ns() if now_ns is None else now_ns
    lines: list[str] = []
    for engine in status.engines:
        lines += [*([""] if lines else []), *_engine(engine, now, status.is_stuck)]
    if status.other_variables:
        names = ", ".join(status.other_variables)
        lines += ["", f"▲ started with another {names} than this app; R starts one with the app's"]
    if status.silence:
        lines += ["", f"▲ {printable(status.silence)}"]
    return lines or list(NO_ENGINE)


def _engine(engine: EngineRecord, now_ns: int, is_stuck: bool) -> list[str]:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(engine.started_ns / 1e9))
    silence = (now_ns - engine.heartbeat_ns) / 1e9
    beat = f"▲ silent for {lasting(silence // 5 * 5)}" if is_stuck else "✓ beats every second"
    return [
        f"{'▶' if engine.run else '●'} {printable(engine.host)}, process {engine.pid}",
        *columns(
            [
                ("since", since),
                ("heartbeat", beat),
                ("run", printable(engine.run) or "none, it waits"),
                ("memory", held_words(engine.models)),
            ]
        ),
    ]


def doctor(report: Mapping[str, Any]) -> list[str]:
    """What `modiff doctor` prints, from its JSON, below whether that is as it must be."""
    return [
        "✓ all that is needed works"
        if report["ok"]
        else "✖ something that is needed does not work",
        "",
        *doctor_lines(report, MARKS),
    ]


def findings(report: Mapping[str, Any], section: str) -> list[Mapping[str, str]]:
    """The doctor's rows of one section."""
    return [row for each in report["sections"] if each["name"] == section for row in each["rows"]]
