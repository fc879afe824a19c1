"""Flow-matching solvers as pure functions over an explicit, serialisable state.

`scheduler.create_scheduler` is the entry point; a scheduler holds its schedule and every coefficient, a state
holds everything that changes. `course` and `schedule`, the plain numbers behind it, are torch-free. Needs torch alone.
"""
