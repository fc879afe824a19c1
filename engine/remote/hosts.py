"""The hosts that people know: `hosts.toml` of the config folder, with where the token of each is. Torch-free.

A token never stands in a preset, a key or a command line: a host has the file or the environment variable that holds
it, and it is sent to that very address alone.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from engine.errors import ComponentError
from presets.paths import user_preset_dir

MAX_BYTES = 256 * 1024
_MAX_TOKEN_BYTES = 4096


class KnownHost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A host. url: http://ADDRESS:PORT or https://. token_file, token_env: what holds its token, where it has one.
    ca_file: certificates (PEM) that its own is checked by, where it is not signed by a known authority."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)")]
    url: Annotated[str, Meta(max_length=1024)]
    token_file: str = ""
    token_env: str = ""
    ca_file: str = ""


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    hosts: list[KnownHost] = []


def hosts_file() -> Path:
    """The file that holds them; it need not exist yet."""
    return user_preset_dir().parent / "hosts.toml"


def known_hosts() -> list[KnownHost]:
    """Raises ComponentError where the file cannot be read."""
    file = hosts_file()
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ComponentError(f"{file}: cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_BYTES:
        raise ComponentError(f"{file}: more than {MAX_BYTES:,} bytes; correct it")
    try:
        found = msgspec.convert(tomllib.loads(data.decode("utf-8-sig")), _File)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ComponentError(f"{file}: {error}; correct it, or delete it") from None
    return list(found.hosts)


def checked_url(url: str, key: str) -> str:
    """An address as `http://HOST:PORT`. key: of the setting, for the error. Raises ComponentError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ComponentError(f"{url[:200]!r} is no address ({error})", key=key) from None
    odd = parts.username or parts.password or parts.query or parts.fragment
    is_whole = parts.scheme in ("http", "https") and parts.hostname and not odd
    if not is_whole:
        given = "an address with a name or password" if parts.password else repr(url[:200])
        raise ComponentError(
            f"got {given}, expected an address like http://192.168.1.7:8765", key=key
        )
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    named = f":{port}" if port is not None else ""
    return f"{parts.scheme}://{host}{named}{parts.path.rstrip('/')}"


def host_at(url: str) -> KnownHost | None:
    """What is known of an address."""
    return next((host for host in known_hosts() if host.url.rstrip("/") == url.rstrip("/")), None)


def token_of(host: KnownHost | None) -> str:
    """The token of a host, empty where it has none. Raises ComponentError where it cannot be had."""
    if host is None:
        return ""
    if host.token_env:
        token = os.environ.get(host.token_env, "").strip()
        if not token:
            raise ComponentError(
                f"the token of the host {host.name} is to be in ${host.token_env}, which is not set where this runs; "
                "an engine keeps the environment that it was started in: `modiff engine stop`, or use a token file"
            )
        return token
    return read_token(Path(host.token_file).expanduser()) if host.token_file else ""


def read_token(path: Path) -> str:
    """The token in a file: its text without white space around it. Raises ComponentError."""
    try:
        with path.open("rb") as stream:
            token = stream.read(_MAX_TOKEN_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ComponentError(f"{path}: the token cannot be read ({reason})") from None
    return checked_token(token, str(path))


def checked_token(token: str, where: str) -> str:
    """Raises ComponentError where it cannot be sent in a header. where: it is from, for the error."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ComponentError(f"{where}: no token; expected one line of letters and digits")
    return token
