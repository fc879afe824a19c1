"""What the app remembers between two starts: the last preset, the filter, the theme, prompts. One JSON file.

It is a convenience: a file that is absent, damaged or of a newer version means the defaults, and one that cannot be
written costs the memory, never the app.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from presets.errors import PresetError
from presets.library.paths import user_preset_dir

MAX_PROMPTS = 200
LOCK_SECONDS = 2.0

_DRAFT = re.compile(r"\.app-\w{8}\.tmp")

log = logging.getLogger(__name__)


class KeptDraft(msgspec.Struct, frozen=True):
    """A form that was left: its preset, and by dotted key the text that was typed over it. spec_json: the settings that
    it was typed over where they came without a preset, whose name is empty then."""

    preset: str
    edits: dict[str, str]
    spec_json: str = ""


class Preferences(msgspec.Struct, kw_only=True):
    """theme: a name of Textual's. images: auto, half or off. notices: what is told at the end of a run: on the screen,
    by bell, desktop and title of the terminal (all), on the screen only (screen), or nothing (off). prompts: newest
    last. folder: where a picture or a clip was picked last. draft: what the form held when the app was left, None for a
    preset as it is."""

    screen: str = "compose"
    preset: str = "micro"
    theme: str = ""
    images: Literal["auto", "half", "off"] = "auto"
    notices: Literal["all", "screen", "off"] = "all"
    runs_filter: str = ""
    runs_view: Literal["table", "tree"] = "table"
    prompts: list[str] = []
    folder: str = ""
    draft: KeptDraft | None = None

    def remember_prompt(self, prompt: str) -> None:
        """As the newest; a prompt is remembered once."""
        if prompt.strip():
            self.prompts = [*(p for p in self.prompts if p != prompt), prompt][-MAX_PROMPTS:]


def preferences_path() -> Path:
    """Beside the user's presets."""
    return user_preset_dir().parent / "app.json"


def load_preferences() -> Preferences:
    """Those of the last start, or the defaults."""
    try:
        return msgspec.json.decode(preferences_path().read_bytes(), type=Preferences)
    except FileNotFoundError:
        return Preferences()
    except (OSError, RuntimeError, PresetError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read (%s); the defaults are used", "app.json", error)
        return Preferences()


def save_preferences(preferences: Preferences, before: Preferences | None = None) -> None:
    """Whole or not at all; a failure is logged.

    before: as they were loaded. What another app has saved since stays where it was not changed in this one, and its
    prompts stay in any case.
    """
    from store import locks
    from store.errors import StoreError

    try:
        path = preferences_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locks.acquire(path.with_name(f".{path.name}.lock"), timeout_seconds=LOCK_SECONDS):
            kept = preferences if before is None else _merged(preferences, before)
            _write(path, msgspec.json.format(msgspec.json.encode(kept)))
    except (OSError, PresetError, StoreError) as error:
        log.warning("what the app remembers could not be saved: %s", error)


def _merged(ours: Preferences, before: Preferences) -> Preferences:
    """What is saved by now, with what was changed in this app since it was loaded."""
    theirs = load_preferences()
    changed = {
        name: value
        for name, value in msgspec.structs.asdict(ours).items()
        if name != "prompts" and value != getattr(before, name)
    }
    merged = msgspec.structs.replace(theirs, **changed)
    for prompt in ours.prompts:
        if prompt not in before.prompts:
            merged.remember_prompt(prompt)
    return merged


def _write(path: Path, data: bytes) -> None:
    from store.blobs.leavings import sweep_leavings

    sweep_leavings(path.parent, _DRAFT)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".app-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except BaseException:  # whatever it is goes on, and leaves no draft
        os.unlink(draft)
        raise
