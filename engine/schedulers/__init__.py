"""Flow-matching solvers as pure functions over an explicit, serialisable state.

`create_scheduler` is the entry point; a scheduler holds its schedule and every coefficient, a state
holds everything that changes. Needs torch alone.
"""

from __future__ import annotations

from engine.schedulers.schedule import Schedule
from engine.schedulers.scheduler import SCHEDULERS, Scheduler, SolverState, create_scheduler
from engine.schedulers.update import Update

__all__ = ["SCHEDULERS", "Schedule", "Scheduler", "SolverState", "Update", "create_scheduler"]
