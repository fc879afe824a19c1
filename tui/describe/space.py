"""What is in the store as text: the lines for people, and the objects of `--json`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tui.describe.runs.run import prompt_of, timestamp
from tui.text import columns, printable
from tui.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from store.store import Store
    from store.upkeep.contents import SetAside
    from store.upkeep.removal import Plan, Policy
    from store.upkeep.space import Overview, RunShare, Share
    from store.upkeep.verify import Verdict

LABELS = {
    "text": "prompts",
    "step": "step journal",
    "keyframe": "keyframes",
    "latents": "latents",
    "video": "videos",
}
AGES = {
    "day": "in the last day",
    "week": "in the last week",
    "month": "in the last month",
    "longer": "longer ago",
}


@dataclass(frozen=True, slots=True)
class Space:
    """What takes space in the store: all together, and by run, kind and age. prompts: by the run's id."""

    overview: Overview
    by_run: tuple[RunShare, ...]
    prompts: Mapping[str, str]
    by_kind: Mapping[str, Share]
    by_age: Mapping[str, Share]


def parts(overview: Overview) -> list[tuple[str, int | None, int]]:
    """What there is: its name, how many blobs (None for what is none) and bytes: kinds of blobs, then other files."""
    return [
        *(
            (_label(kind), share.num_blobs, share.num_bytes)
            for kind, share in overview.kinds.items()
        ),
        *((name, None, num_bytes) for name, num_bytes in overview.files.items() if num_bytes),
    ]


def overview_lines(overview: Overview) -> list[str]:
    """`modiff store info`."""
    pinned = f", {overview.num_pinned} of them pinned" if overview.num_pinned else ""
    rows = [("WHAT", "BLOBS", "SIZE")]
    rows += [
        (name, "-" if num_blobs is None else str(num_blobs), size(num_bytes))
        for name, num_blobs, num_bytes in parts(overview)
    ]
    rows.append(("all", str(overview.num_blobs), size(overview.num_bytes)))
    lines = [
        f"store  {printable(str(overview.root))}",
        f"runs   {overview.num_runs}{pinned}",
        f"free   {size(overview.free_bytes)} on this disk",
        "",
        *columns(rows),
        "",
        f"steps, keyframes and what no run has any more take {size(overview.budgeted_bytes)}; "
        f"`modiff store gc` leaves up to {size(overview.budget_bytes)} of them",
    ]
    if overview.leftover_bytes:
        left = size(overview.leftover_bytes)
        lines.append(f"of no run any more, of those that were removed or taken further: {left}")
    if overview.protected_bytes:
        lines.append(
            f"of pinned and unfinished runs, never removed: {size(overview.protected_bytes)}"
        )
    return lines


def overview_data(overview: Overview) -> dict[str, Any]:
    """`modiff store info --json`."""
    return {
        "path": str(overview.root),
        "runs": overview.num_runs,
        "pinned": overview.num_pinned,
        "blobs": overview.num_blobs,
        "bytes": overview.num_bytes,
        "free_bytes": overview.free_bytes,
        "kinds": shares_data("kind", overview.kinds),
        "files": dict(overview.files),
        "leftover_bytes": overview.leftover_bytes,
        "protected_bytes": overview.protected_bytes,
        "budgeted_bytes": overview.budgeted_bytes,
        "budget_bytes": overview.budget_bytes,
    }


def shares_lines(title: str, shares: Mapping[str, Share]) -> list[str]:
    """A heading and a line for each kind or age; none for none."""
    rows = [(title, "BLOBS", "SIZE", "RECOMPUTE")]
    rows += [
        (_label(name), str(share.num_blobs), size(share.num_bytes), duration(share.seconds))
        for name, share in shares.items()
    ]
    return columns(rows) if shares else []


def shares_data(title: str, shares: Mapping[str, Share]) -> list[dict[str, Any]]:
    """An object for each kind or age."""
    return [
        {
            title: name,
            "blobs": share.num_blobs,
            "bytes": share.num_bytes,
            "seconds": round(share.seconds, 3),
        }
        for name, share in shares.items()
    ]


def runs_lines(shares: Sequence[RunShare]) -> list[str]:
    """A heading and a line for each run."""
    rows = [("RUN", "ALONE", "SHARED", "RECOMPUTE", "PINNED", "PRESET")]
    rows += [
        (
            printable(share.run.id),
            size(share.alone_bytes),
            size(share.shared_bytes),
            duration(share.seconds),
            "yes" if share.run.is_pinned else "",
            printable(share.run.preset),
        )
        for share in shares
    ]
    return columns(rows)


def run_data(share: RunShare) -> dict[str, Any]:
    """A run of `modiff store ls --json`."""
    return {
        "run": share.run.id,
        "preset": share.run.preset,
        "pinned": bool(share.run.is_pinned),
        "created": timestamp(share.run.created_ns),
        "alone_bytes": share.alone_bytes,
        "shared_bytes": share.shared_bytes,
        "seconds": round(share.seconds, 3),
    }


def plan_lines(plan: Plan, budget: int | None, *, dry_run: bool) -> list[str]:
    """What `modiff store gc` removed, or would. budget: bytes that it leaves of what only saves work, if any."""
    from store.upkeep.space import by_kind

    if plan.is_empty:
        if budget is None or not 0 < plan.left_bytes <= budget:
            return ["nothing to remove"]
        return [
            f"nothing to remove: steps, keyframes and what no run has any more take {size(plan.left_bytes)}, "
            f"within the budget of {size(budget)}"
        ]
    rows = [
        (_label(kind), str(share.num_blobs), size(share.num_bytes))
        for kind, share in by_kind(plan.removals).items()
    ]
    for folder, found in _by_folder(plan).items():
        num_bytes = sum(each.num_bytes for each in found)
        rows.append((folder, str(len(found)), size(num_bytes)))
    return [
        *columns([("WHAT", "BLOBS", "SIZE"), *rows]),
        "",
        f"{'would free' if dry_run else 'freed'} {size(plan.freed_bytes)}; "
        f"{duration(plan.seconds)} to compute it again",
    ]


def _by_folder(plan: Plan) -> dict[str, list[SetAside]]:
    """What goes by its age alone, by the folder of the store that it is in."""
    found: dict[str, list[SetAside]] = {}
    for each in plan.aside:
        found.setdefault(each.path.parent.name, []).append(each)
    return found


def plan_data(plan: Plan, budget: int | None, *, dry_run: bool) -> dict[str, Any]:
    """`modiff store gc --json`."""
    from store.upkeep.space import by_kind

    return {
        "dry_run": dry_run,
        "freed_bytes": plan.freed_bytes,
        "seconds": round(plan.seconds, 3),
        "removed": shares_data("kind", by_kind(plan.removals)),
        **{
            folder: [
                {"file": each.path.name, "bytes": each.num_bytes, "ns": each.ns}
                for each in _by_folder(plan).get(folder, ())
            ]
            for folder in ("quarantine", "quantised")
        },
        "left_bytes": plan.left_bytes,
        "budget_bytes": budget,
    }


def verdict_lines(verdict: Verdict) -> list[str]:
    """What `modiff store verify` found."""
    read, present, unreferenced = verdict.read, verdict.present, verdict.unreferenced
    num_problems = len(verdict.problems)
    lines = [
        f"{'damaged':<10}  row {printable(each.row)} of {each.table}: "
        f"{printable('; '.join(' '.join(fault) for fault in each.faults))}"
        f"{printable(f'; {each.note}' if each.note else '')}"
        for each in verdict.rows
    ]
    lines += [f"{'damaged':<10}  {printable(line)}" for line in verdict.indexes]
    lines += [
        f"{problem.what:<10}  {printable(problem.digest)}: {printable(problem.note)}"
        for problem in verdict.problems
    ]
    lines += [f"{'no blob':<10}  {printable(str(path))}" for path in verdict.strays]
    lines.append(
        f"{present.num_blobs} blobs, {size(present.num_bytes)}; {read.num_blobs} were read"
    )
    if unreferenced.num_blobs:
        lines.append(
            f"{unreferenced.num_blobs} of them, {size(unreferenced.num_bytes)}, are of no use to "
            "any run; `modiff store gc` removes them once they are an hour old"
        )
    if verdict.num_without_latents:
        lines.append(
            f"finished runs whose final latents are not stored: {verdict.num_without_latents}"
        )
    if num_problems:
        lines.append(f"blobs that are not as they should be: {num_problems}")
    if verdict.rows or verdict.indexes:
        done = "are mended or set aside" if verdict.is_repaired else "are left as they are"
        way = "" if verdict.is_repaired else "; `modiff store verify --repair` mends or sets aside"
        lines.append(f"damaged rows and indexes of the database {done}{way}")
    if verdict.is_sound:
        lines.append("the database and all blobs are sound")
    return lines


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """`modiff store verify --json`."""
    return {
        "ok": verdict.is_sound,
        "problems": [
            {"blob": problem.digest, "problem": problem.what, "note": problem.note}
            for problem in verdict.problems
        ],
        "rows": [
            {
                "table": each.table,
                "row": each.row,
                "problem": "; ".join(" ".join(fault) for fault in each.faults),
                "note": each.note,
            }
            for each in verdict.rows
        ],
        "indexes": list(verdict.indexes),
        "repaired": verdict.is_repaired,
        "blobs": verdict.present.num_blobs,
        "bytes": verdict.present.num_bytes,
        "read_blobs": verdict.read.num_blobs,
        "read_bytes": verdict.read.num_bytes,
        "unreferenced_blobs": verdict.unreferenced.num_blobs,
        "unreferenced_bytes": verdict.unreferenced.num_bytes,
        "strays": [str(path) for path in verdict.strays],
        "runs_without_latents": verdict.num_without_latents,
    }


def _label(name: str) -> str:
    return printable(LABELS.get(name) or AGES.get(name) or name)


def planned_removal(store: Store, policy: Policy) -> Plan:
    """What `remove_by` would do now."""
    from store.upkeep.gc import preview

    return preview(store.lineage, policy)


def remove_by(store: Store, policy: Policy) -> Plan:
    """Clean up; what was removed. Raises StoreBusy, with nothing done, while a run writes."""
    from store.upkeep.gc import clean

    store.recover_if_possible()
    return clean(store.lineage, policy)


def space(store: Store) -> Space:
    from store.upkeep.contents import look
    from store.upkeep.needs import chains, classify
    from store.upkeep.space import by_age, by_kind, by_run, survey

    contents = look(store.lineage)
    known = chains(contents)
    stored = classify(contents, known)
    shares = tuple(by_run(contents, known, stored))
    return Space(
        overview=survey(store.root, contents),
        by_run=shares,
        prompts={run.id: prompt_of(run) for run in store.runs(limit=len(shares))},
        by_kind=by_kind(stored.values()),
        by_age=by_age(stored.values(), time.time_ns()),
    )
