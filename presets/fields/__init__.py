"""What annotations say about the keys of a struct: the one source of checks, messages and help.

msgspec decides what is valid; the code here finds the key that is to blame and words the refusal.
Four rules that msgspec cannot state ride in `Meta(extra=...)` and are enforced by `build`:
`step` (an integer is the lower limit plus a multiple of it), `max` (of an integer, where it has more
than 63 bits), `max_bytes` (of text in UTF-8) and finite numbers everywhere. `expected` in `extra`
replaces the worded expectation, for patterns.

Two more are for those who show a field: `role` says what it is ("seed", "device", "component:vae", ...), and so which
editor it gets; `section` in which part of a form it stands, with all keys that it holds (`presets.spec.sections`).
`"setting": False` is of a key that a file may hold and nobody sets.
"""
