"""A run, described: frozen structs that say everything about what to make and nothing about how.

The annotations are the one source of limits and help: validation, `--set`, the form and the JSON
Schema all read them (see `presets.fields`). Sizes are pixels, times are frames.

An option of a component says in `Meta(extra=...)` how it counts in the key of a result (see
`presets/identity.py`): `place` for where something runs or lies, which changes no number, and `neutral` for
the value at which an option does nothing. A neutral value never changes, even if the default does.

`role` says what a field is to whoever shows it, where its type does not say it all: "prompt", "seed", "device",
"model:KIND" (weights, by name or path), "file", "component:KIND" (the name of one), "options:KIND" (a table of
options of what is named beside it), "switch" (whether an item of a list counts). `section` says where in a form it
stands (`sections.py`).
"""
