"""Which steps of a run are kept, and how. Torch-free.

All of them: each step's journal entry, one latent in size, from which any state is rebuilt. Fewer: at each kept step a
keyframe, the solver's full state (up to three latents), because the entries between them are gone.
"""

from __future__ import annotations

from presets.spec.output import KeepSpec

# A UniPC state: the latents and two earlier predictions.
KEYFRAME_LATENTS = 3


def kept_steps(keep: KeepSpec, total: int, latent_bytes: int) -> frozenset[int] | None:
    """The numbers of steps done (1 to total) whose state is kept; None for a complete journal.

    latent_bytes: of one latent.
    """
    budget = keep.budget_mb * 10**6
    if keep.every == 1 and total * latent_bytes <= budget:
        return None
    wanted = {step for step in keep.steps if step <= total}
    wanted |= set(range(1, min(keep.first, total) + 1))
    wanted |= set(range(max(1, total - keep.last + 1), total + 1))
    if keep.every:
        wanted |= set(range(keep.every, total + 1, keep.every))
    affordable = budget // (KEYFRAME_LATENTS * latent_bytes)
    ordered = sorted(wanted)
    if len(ordered) > affordable:
        # evenly over the run, its end included: the later a step, the more it saves to go back to it
        chosen = {round((number + 1) * len(ordered) / affordable) for number in range(affordable)}
        ordered = [ordered[index - 1] for index in sorted(chosen)]
    return frozenset(ordered)
