"""The hosts that people know: `hosts.toml` of the config folder, with where the token of each is. Torch-free.

A token never stands in a preset, a key or a command line: a host has the file or the environment variable that holds
it, and it is sent to that very address alone.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from engine.config_file import only_writer, read_table, write_table
from engine.errors import ComponentError
from presets.library.paths import user_preset_dir

_MAX_TOKEN_BYTES = 4096
_NOTE = "The hosts that serve components to modiff; `modiff hosts add` and `rm` write it."
_CORRECT_IT = "correct it, or delete it and add the hosts again"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_HOST, _PATH = re.compile(r"[a-z0-9._-]{1,255}"), re.compile(r"[A-Za-z0-9._~/-]*")
_NUMBERS = re.compile(r"[0-9.]+")


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
    """With their addresses as of `checked_url`. Raises ComponentError where the file cannot be read."""
    file = hosts_file()
    table = read_table(file, ComponentError, _CORRECT_IT)
    try:
        found = msgspec.convert(table, _File).hosts
        hosts = [msgspec.structs.replace(host, url=checked_url(host.url, "url")) for host in found]
    except (msgspec.MsgspecError, ComponentError) as error:
        raise ComponentError(f"{file}: {error}; {_CORRECT_IT}") from None
    for told in ("name", "url"):
        values = [getattr(host, told) for host in hosts]
        if twice := [value for value in values if values.count(value) > 1]:
            raise ComponentError(f"{file}: two hosts of the {told} {twice[0]}; {_CORRECT_IT}")
    return hosts


def add(
    name: str, url: str, *, token_file: str = "", token_env: str = "", ca_file: str = ""
) -> KnownHost:
    """Remembers a host. Raises ComponentError where it cannot be used so, or its name or address is known already."""
    if not _NAME.fullmatch(name):
        raise ComponentError(
            f"got the name {name[:80]!r}, expected up to 64 letters, digits, '.', '_' and '-', beginning with a letter "
            "or digit"
        )
    url = checked_url(url, "")
    if token_file and token_env:
        raise ComponentError("a host has its token in a file or in a variable, not in both")
    if token_env and not _VARIABLE.fullmatch(token_env):
        raise ComponentError(f"got {token_env[:80]!r}, expected the name of a variable")
    if ca_file and not url.startswith("https:"):
        raise ComponentError(f"{url} has no certificate to check: --ca-file is for https://")
    files = [
        str(Path(file).expanduser().absolute()) if file else "" for file in (token_file, ca_file)
    ]
    host = KnownHost(name=name, url=url, token_file=files[0], token_env=token_env, ca_file=files[1])
    if host.token_file:
        read_token(Path(host.token_file))
    if host.ca_file:
        certificates(host.ca_file)
    with only_writer(hosts_file(), ComponentError):
        known = known_hosts()
        for other in known:
            if name == other.name:
                raise ComponentError(
                    f"{name} is known already ({other.url}); `modiff hosts rm {name}` forgets it"
                )
            if url == other.url:
                raise ComponentError(f"{url} is known already, as {other.name}")
        _write([*known, host])
    return host


def remove(name: str) -> KnownHost:
    """Forgets a host. Raises ComponentError where none is called so."""
    with only_writer(hosts_file(), ComponentError):
        known = known_hosts()
        host = _named(name, known, "")
        _write([other for other in known if other is not host])
    return host


def warnings_of(host: KnownHost) -> list[str]:
    """What whoever uses a host should know: a line each."""
    found = []
    if host.token_file and (warning := readable_by_others(Path(host.token_file))):
        found.append(warning)
    if host.token_env and not os.environ.get(host.token_env):
        found.append(f"${host.token_env} is not set here; runs need it where the engine is started")
    if host.url.startswith("http:") and not is_loopback(str(urlsplit(host.url).hostname)):
        also = ", its token too" if host.token_file or host.token_env else ""
        found.append(
            f"what goes to {host.url} can be read on the way{also}; `modiff serve --tls-cert --tls-key` encrypts it, "
            "an SSH tunnel does too"
        )
    return found


def readable_by_others(path: Path) -> str:
    """The line that warns of a token file that others can read, "" for one that they cannot."""
    try:
        is_open = path.stat().st_mode & 0o077
    except OSError:
        return ""
    warning = f"others on this machine can read {path}; `chmod 600` makes it yours alone"
    return warning if is_open else ""


def address_of(text: str, key: str) -> str:
    """The address that a name of a known host or an address means, as of `checked_url`. key: of the setting, for the
    error. Raises ComponentError."""
    return _named(text, known_hosts(), key).url if _NAME.fullmatch(text) else checked_url(text, key)


def checked_url(url: str, key: str) -> str:
    """An address as `http://HOST:PORT`. key: of the setting, for the error. Raises ComponentError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ComponentError(f"{url[:200]!r} is no address ({error})", key=key) from None
    if parts.username or parts.password:
        raise ComponentError(
            "got an address with a name or password, expected one like http://192.168.1.7:8765; "
            "`modiff hosts add NAME URL --token-file FILE` keeps a token apart",
            key=key,
        )
    host, path = str(parts.hostname or ""), parts.path.rstrip("/")
    is_whole = (
        url.isprintable()  # urlsplit leaves the rest out
        and parts.scheme in ("http", "https")
        and _is_host(host)
        and _PATH.fullmatch(path)
        and not (parts.query or parts.fragment)
        and port != 0
    )
    if not is_whole:
        raise ComponentError(
            f"got {url[:200]!r}, expected an address like http://192.168.1.7:8765", key=key
        )
    host = f"[{host}]" if ":" in host else host
    named = f":{port}" if port is not None else ""
    return f"{parts.scheme}://{host}{named}{path}"


def _is_host(host: str) -> bool:
    """A name, or an address of IPv4 or IPv6."""
    if ":" not in host and not _NUMBERS.fullmatch(host):
        return bool(_HOST.fullmatch(host))
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_at(url: str) -> KnownHost | None:
    """What is known of an address as of `checked_url`."""
    return next((host for host in known_hosts() if host.url == url), None)


def certificates(ca_file: str) -> ssl.SSLContext:
    """What the certificate of a host is checked by. Raises ComponentError."""
    try:
        return ssl.create_default_context(cafile=os.path.expanduser(ca_file))
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or error
        raise ComponentError(f"{ca_file}: no certificates as PEM ({reason})") from None


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


def _named(name: str, known: Sequence[KnownHost], key: str) -> KnownHost:
    for host in known:
        if host.name == name:
            return host
    names = ", ".join(host.name for host in known) or "none"
    raise ComponentError(
        f"no host is called {name} (known are: {names}); `modiff hosts add {name} URL` makes one known, "
        "or give an address like http://192.168.1.7:8765",
        key=key,
    )


def _write(hosts: Sequence[KnownHost]) -> None:
    table = {"hosts": [msgspec.to_builtins(host) for host in hosts]}
    write_table(hosts_file(), table, _NOTE, ComponentError)
