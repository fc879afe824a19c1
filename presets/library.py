"""Presets by name or path: finding, reading, layering and saving their TOML files.

A preset is a chain of layers: its parents (`extends`), the file itself, then overrides. Every
layer is checked on its own, so an error names the file that holds the key. Shipped names are
reserved; a user's file is replaced in one step or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from presets.encoding import check_format
from presets.errors import PresetError
from presets.expansion import settle_instructions
from presets.fields import build, found_out, groups
from presets.overrides import applied, changes_of, parse_changes, sets
from presets.paths import user_preset_dir
from presets.spec import FORMAT, PresetFile, RunSpec
from presets.validation import settle_names, settle_steps, to_plain, validate
from presets.wording import did_you_mean, nearest

# Two prompts of the largest size and 64 extensions fit many times; more is not a preset.
MAX_FILE_BYTES = 256 * 1024
LOCK_SECONDS = 5.0
POLL_SECONDS = 0.01
STALE_SECONDS = 3600.0

# what is made of other settings, by its key those that decide it
_MADE_BY = {
    "expansion.instructions": ("expansion.template",),
    "expansion.text": (
        "prompt", "expansion.template", "expansion.instructions", "expansion.seed",
    ),
    "image.digest": ("image.path", "image.background"),
    "last_image.digest": ("last_image.path", "last_image.background"),
    "video.digest": ("video.path", "fps", "frames"),
}  # fmt: skip

_SHIPPED = Path(__file__).parent / "shipped"
_DRAFT = re.compile(r"\.[A-Za-z0-9][A-Za-z0-9._+-]{0,63}-\w{8}\.tmp")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class PresetInfo:
    """One preset in a list. error: why it cannot be used, empty when it can."""

    name: str
    path: Path
    shipped: bool
    description: str
    extends: str
    error: str


@dataclass(frozen=True, slots=True)
class _Layer:
    """One preset file: where it lies, what it sets, and its two keys about itself."""

    path: Path
    values: dict[str, Any]
    extends: str
    description: str


def load_preset(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    *,
    values: Mapping[str, object] | None = None,
    text: str | None = None,
) -> RunSpec:
    """The run that a preset describes, validated.

    name_or_path: a preset's name, or a path ending in `.toml`. overrides: `"scheduler.steps=12"`,
    applied after the file. values: `{"prompt": text}` with dotted keys, taken as they are and
    applied last. text: taken as the file's content, to check it before it is written. Raises
    `PresetError`.
    """
    layers = _chain(preset_path(name_or_path), text)
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, settle_instructions(settle_steps(settle_names(layer.values))))
    merged = _changed(merged, overrides, values)
    try:
        return validate(build(merged, RunSpec))
    except PresetError as error:
        raise PresetError(
            error.problem, key=error.key, source=_source(error.key, merged, layers)
        ) from None


def override(
    spec: RunSpec, overrides: Iterable[str] = (), *, values: Mapping[str, object] | None = None
) -> RunSpec:
    """A run with some of its settings changed; overrides and values as of `load_preset`. Raises PresetError."""
    return validate(build(_changed(to_plain(spec), overrides, values), RunSpec))


def list_presets() -> list[PresetInfo]:
    """All presets, the shipped ones first, each group by name; broken ones carry their error."""
    found = [_info(path, shipped=True) for path in _shipped_files()]
    return found + [_info(path, shipped=False) for path in _user_files()]


def _shipped_files() -> list[Path]:
    return sorted(_SHIPPED.glob("*.toml"), key=lambda path: path.stem)


def preset_info(name: str) -> PresetInfo | None:
    """One preset as `list_presets` has it; None where none has this name."""
    for folder, shipped in ((_SHIPPED, True), (user_preset_dir(), False)):
        path = folder / f"{name}.toml"
        if _NAME.match(name) and os.path.exists(path):
            return _info(path, shipped=shipped)
    return None


def preset_path(name_or_path: str | Path) -> Path:
    """Where a preset's file is; raises `PresetError` with the nearest name when there is none."""
    if isinstance(name_or_path, Path) or name_or_path.endswith(".toml"):
        return Path(name_or_path).expanduser()
    _check_name(name_or_path)
    for folder in (lambda: _SHIPPED, user_preset_dir):
        path = folder() / f"{name_or_path}.toml"
        if os.path.exists(path):  # False where it cannot be known; Path.exists raises
            return path
    names = [path.stem for path in (*_shipped_files(), *_user_files())]
    near = did_you_mean(nearest(name_or_path, names)) or f"; there are {', '.join(names)}"
    raise PresetError(f'no preset is named "{name_or_path}"{near}')


def save_preset(
    name: str,
    spec: RunSpec,
    *,
    description: str = "",
    extends: str = "",
    overwrite: bool = False,
) -> Path:
    """Write `spec` as the user preset `name` and return its path.

    With `extends` only what differs from that preset is written, otherwise everything. The file
    appears complete or not at all. Raises `PresetError`: a bad or reserved name, a name that is
    taken (without `overwrite`), a chain that would lead back to `name`, a spec that is not valid,
    or a folder that cannot be written.
    """
    _check_name(name)
    if _is_shipped(name):
        raise PresetError(f'"{name}" is the name of a shipped preset; choose another name')
    path = user_preset_dir() / f"{name}.toml"
    content = _chosen(_from_anywhere(validate(spec)))
    if extends:
        parents = _chain(preset_path(extends))
        if any(layer.path == path for layer in parents):
            raise PresetError(f'"{extends}" is built on "{name}" itself', key="extends")
        content = _differences(content, to_plain(load_preset(extends)))
        if "template" in content.get("expansion", {}) and spec.expansion.instructions:
            # beside another template those of the parent would not hold
            content["expansion"]["instructions"] = spec.expansion.instructions
    header = {"format": FORMAT, "extends": extends, "description": description}
    document = {**{key: value for key, value in header.items() if value}, **content}
    build(document, PresetFile)
    encoded = _encoded(tomli_w.dumps(document))
    try:
        _write_whole(path, encoded, overwrite=overwrite)
    except FileExistsError:
        raise PresetError(
            f'a preset named "{name}" is already there; choose another name or overwrite it'
        ) from None
    except OSError as error:
        raise PresetError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def read_preset_text(path: Path) -> str:
    """What a preset's file holds, whether it is a valid preset or not; raises `PresetError`."""
    return _read_text(path)


def write_preset_text(path: Path, text: str, *, expected: str | None = None) -> None:
    """Replace one of the user's preset files as a whole, by a valid preset or not, so that one can be mended in
    steps.

    expected: what the file held when it was read. Raises `PresetError`: a shipped preset, a text that is too long, a
    file that holds something else by now, or one that cannot be written.
    """
    if path.resolve().parent == _SHIPPED.resolve():
        raise PresetError(f'"{path.stem}" is a shipped preset; save a copy under another name')
    encoded = _encoded(text)
    try:
        with _only_writer(path.parent):
            if expected is not None and path.exists() and _read_text(path) != expected:
                raise PresetError(
                    f"{path} was changed by another program since it was read; leave, and open it again"
                )
            _write_whole(path, encoded, overwrite=True)
    except OSError as error:
        raise PresetError(f"cannot write {path}: {error.strerror or error}") from None


def dump_preset(spec: RunSpec) -> str:
    """`spec` as the TOML of a preset without parents, every default written out."""
    return tomli_w.dumps(_chosen(spec))


def _chosen(spec: RunSpec) -> dict[str, Any]:
    """A spec as plain data, without what was found out of the files that it names."""
    plain: dict[str, Any] = to_plain(spec)
    for key in found_out(RunSpec):
        table, _, name = key.rpartition(".")
        if table:
            del plain[table][name]
    return plain


def _from_anywhere(spec: RunSpec) -> RunSpec:
    """With the paths of pictures and clips that are in the current folder told from the root: a preset of the library
    is used in any folder."""
    for name in ("image", "last_image", "video"):
        given = getattr(spec, name)
        path = os.path.abspath(os.path.expanduser(given.path))
        if given.path and os.path.isfile(path):
            spec = msgspec.structs.replace(
                spec, **{name: msgspec.structs.replace(given, path=path)}
            )
    return spec


def _encoded(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > MAX_FILE_BYTES:
        raise PresetError(
            f"a preset file has at most {MAX_FILE_BYTES} bytes, this one would have {len(encoded)}"
        )
    return encoded


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise PresetError(
            f'"{name[:60]}" is not a preset name; a name has at most 64 letters, digits, ".", "_", '
            '"+" and "-", and a path to a preset file ends in .toml'
        )


def _is_shipped(name: str) -> bool:
    # Case is ignored: on macOS and Windows, Base.toml and base.toml are one file.
    return name.casefold() in {path.stem.casefold() for path in _SHIPPED.glob("*.toml")}


def _user_files() -> list[Path]:
    folder = user_preset_dir()
    try:
        files = [path for path in folder.iterdir() if path.suffix == ".toml"]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PresetError(f"cannot read the folder {folder}: {error.strerror or error}") from None
    return sorted(path for path in files if not path.name.startswith("."))


def _info(path: Path, *, shipped: bool) -> PresetInfo:
    name, description, extends, error = path.stem, "", "", ""
    try:
        layer = _read(path)
        description, extends = layer.description, layer.extends
        if not shipped:
            _check_name(name)
            if _is_shipped(name):
                raise PresetError(
                    "the name belongs to a shipped preset, which is used in its place"
                )
        load_preset(path)
    except PresetError as problem:
        error = str(problem)
    return PresetInfo(name, path, shipped, description, extends, error)


def _chain(path: Path, text: str | None = None) -> list[_Layer]:
    """The layers of a preset, its farthest parent first. text: of the preset itself, where it is not the file's."""
    layers = [_read(path, text)]
    while parent := layers[-1].extends:
        child = layers[-1].path
        try:
            # Only names: a preset from elsewhere must not reach for files of its own choosing.
            if parent.endswith(".toml"):
                raise PresetError(f'expected the name of a preset, got the file "{parent}"')
            parent_path = preset_path(parent)
        except PresetError as error:
            raise PresetError(error.problem, key="extends", source=str(child)) from None
        if any(parent_path.resolve() == layer.path.resolve() for layer in layers):
            names = " -> ".join([*(layer.path.stem for layer in layers), parent])
            raise PresetError(f"{names} goes in a circle", key="extends", source=str(child))
        layers.append(_read(parent_path))
    return layers[::-1]


def _read(path: Path, text: str | None = None) -> _Layer:
    text = _read_text(path) if text is None else text
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and an integer of thousands of digits
        is_syntax = isinstance(error, tomllib.TOMLDecodeError)
        if not is_syntax and (key := _key_of_long_integer(text)):
            problem = "an integer of thousands of digits is too large"
            raise PresetError(problem, key=key, source=str(path)) from None
        raise PresetError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise PresetError(f"{path}: not valid TOML: arrays or tables nested too deeply") from None
    source = str(path)
    check_format(values, source=source)
    try:
        file = build(values, PresetFile)
    except PresetError as error:
        raise PresetError(error.problem, key=error.key, source=source) from None
    own = {key: value for key, value in values.items() if key not in ("extends", "description")}
    return _Layer(path, own, file.extends, file.description)


def _read_text(path: Path) -> str:
    if os.path.exists(path) and not os.path.isfile(path):
        # Opening a pipe would wait for a writer, and a device has no end.
        raise PresetError(f"cannot read {path}: it is not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
            num_bytes = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise PresetError(f"cannot read {path}: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(path, data, num_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PresetError(
            f"{path}: line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); "
            "save the file as UTF-8"
        ) from None


def _key_of_long_integer(text: str) -> str:
    """The dotted key of the first integer that has more digits than Python reads, or ""."""
    found = re.search(
        r"^[ \t]*([A-Za-z0-9_.-]{1,64})[ \t]*=[ \t]*[+-]?[0-9_]{4301}", text, re.MULTILINE
    )
    if found is None:
        return ""
    header = r"^[ \t]*\[([A-Za-z0-9_.-]{1,64})\][ \t]*(?:#.*)?$"
    tables = re.findall(header, text[: found.start()], re.MULTILINE)
    return ".".join([*tables[-1:], found[1]])


def _too_large(path: Path, data: bytes, num_bytes: int) -> PresetError:
    """Not parsed, but the key in which the limit falls is the last one that begins before it."""
    keys = re.findall(rb"^[ \t]*([A-Za-z0-9_.-]{1,64})[ \t]*=", data, re.MULTILINE)
    return PresetError(
        f"a preset file has at most {MAX_FILE_BYTES} bytes, got {num_bytes}",
        key=keys[-1].decode() if keys else "",
        source=str(path),
    )


def _merge(base: dict[str, Any], changes: Mapping[str, Any], prefix: str = "") -> None:
    """Tables of settings key by key, everything else, options too, as a whole; `base` is changed, `changes` is
    not.
    """
    for key, value in changes.items():
        if prefix + key in groups(RunSpec):
            _merge(base.setdefault(key, {}), value, f"{prefix}{key}.")
        else:
            base[key] = value


def _changed(
    settings: Mapping[str, Any], overrides: Iterable[str], values: Mapping[str, object] | None
) -> dict[str, Any]:
    """`settings` with overrides, then values; where either sets sigmas and no steps, the sigmas set them. What was made
    of a setting that changes holds no longer: an expanded prompt, the digest of a picture."""
    changed = dict(settings)
    both = (parse_changes(overrides), changes_of(values or {}))
    for changes in both:
        changed = applied(changed, changes)
        if sets(changes, "scheduler.sigmas") and not sets(changes, "scheduler.steps"):
            changed = settle_steps(changed, anew=True)
    for key, makers in _MADE_BY.items():
        every = [change for changes in both for change in changes]
        if any(sets(every, maker) for maker in makers) and not sets(every, key):
            table, _, name = key.partition(".")
            changed = {**changed, table: {**changed.get(table, {}), name: ""}}
    return changed


def _differences(
    values: Mapping[str, Any], parent: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if prefix + key in groups(RunSpec):
            if inner := _differences(value, parent[key], f"{prefix}{key}."):
                changed[key] = inner
        # As bytes, because to Python true equals 1 and 1 equals 1.0.
        elif _written(value) != _written(parent[key]):
            changed[key] = value
    return changed


def _written(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _source(key: str, merged: Mapping[str, Any], layers: Sequence[_Layer]) -> str:
    """The file that set `key` last, or nothing when an override or a default did."""
    path = key.partition("[")[0].split(".")  # an item of an array is where the array is
    for layer in reversed(layers):
        found, value = _lookup(layer.values, path)
        if found:
            return str(layer.path) if value == _lookup(merged, path)[1] else ""
    return ""


def _lookup(values: Mapping[str, Any], path: Sequence[str]) -> tuple[bool, object]:
    value: object = values
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return False, None
        value = value[name]
    return True, value


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """From the look at a file in `folder` to its replacement, so that no other process replaces it in between.

    Raises BlockingIOError where another takes too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _sweep_leavings(path: Path) -> None:
    """Remove the drafts of a file of processes that were killed: of this user, and not written to for an hour."""
    for draft in path.parent.glob(f".{glob.escape(path.stem)}-????????.tmp"):
        with contextlib.suppress(OSError):
            status = draft.lstat()
            if (
                status.st_uid == os.geteuid()
                and time.time() - status.st_mtime > STALE_SECONDS
                and _DRAFT.fullmatch(draft.name)
            ):
                draft.unlink()


def _write_whole(path: Path, data: bytes, *, overwrite: bool) -> None:
    """`data` at `path`, complete and durable, or an OSError and nothing changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_leavings(path)
    # The leading dot keeps a leftover of a killed process out of the list of presets.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            # A link, unlike a rename, refuses a name that another process has just taken.
            os.link(temporary, path)
            os.unlink(temporary)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
