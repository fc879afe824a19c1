"""Downloads published models: whole files, each checked before it gets its name, and resumed where it stopped.

What speaks with the hub is huggingface_hub: its addresses, tokens, proxies, retries and HF_ENDPOINT. Only where the
bytes go is ours: its own `hf_hub_download` no longer takes up a download that an earlier process began. Torch-free.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checkpoints.known.catalogue import PublishedFile, decimal_size
from engine.checkpoints.library import DOWNLOADS
from engine.errors import DownloadFailed
from store import locks

if TYPE_CHECKING:
    from engine.checkpoints.known.catalogue import Release

_READ_BYTES = 4 << 20
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")

OnProgress = Callable[[int], None]
"""Called with the bytes of a file that are there, or were checked."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that is to be had. target: where it goes. digest: its SHA-256 as the hub tells it, or its Git hash where
    it is a small file; "" where the hub tells neither. commit: of the repository."""

    repository: str
    name: str
    commit: str
    num_bytes: int
    digest: str
    target: Path
    half: Path

    @property
    def is_here(self) -> bool:
        """Whether a file of this name and size is in its place; its bytes are not looked at."""
        return self.target.is_file() and self.target.stat().st_size == self.num_bytes

    @property
    def bytes_so_far(self) -> int:
        """What an earlier download left."""
        if self.is_here:
            return self.num_bytes
        return self.half.stat().st_size if self.half.is_file() else 0


def look_up(release: Release, folder: Path) -> list[Remote]:
    """The files of a release as the hub has them now. folder: where they go.

    Raises DownloadFailed where the hub cannot be asked, wants a login, or has another file than the catalogue knows.
    """
    return [_remote(release.repository, file, folder) for file in _files(release)]


def bytes_left(remotes: Iterable[Remote]) -> int:
    """What is still to be loaded."""
    return sum(max(0, remote.num_bytes - remote.bytes_so_far) for remote in remotes)


def free_bytes(folder: Path) -> int:
    """The room on the disk that `folder` is on, or will be."""
    there = next(parent for parent in (folder, *folder.parents) if os.path.isdir(parent))
    return shutil.disk_usage(there).free


def fetch(
    remote: Remote,
    *,
    on_progress: OnProgress = lambda done: None,
    on_check: OnProgress = lambda done: None,
) -> None:
    """Loads what is not there of one file, checks all of it and puts it in its place.

    What was loaded stays for the next time when the process or the network ends; bytes that are not those that the
    hub tells of are removed. Raises DownloadFailed.
    """
    try:
        with _alone(remote):
            if not remote.is_here:
                _load(remote, on_progress)
                _check(remote, remote.half, on_check)
                os.replace(remote.half, remote.target)
            elif _digest_of(remote.target, remote.digest, on_check) != remote.digest:
                raise DownloadFailed(
                    f"{remote.target}: is as large as {_named(remote)}, and another file; move it away, or "
                    f"`modiff models verify {remote.target}` tells more"
                )
    except OSError as error:
        raise DownloadFailed(
            f"{error.filename or remote.target}: {error.strerror or error}"
        ) from None


def _files(release: Release) -> list[PublishedFile]:
    """The files by name; where their number is not known, by what the hub has of them."""
    if not any("*" in file.name for file in release.files):
        return list(release.files)
    from huggingface_hub import HfApi

    with _told(release.repository):
        names = HfApi(endpoint=_endpoint()).list_repo_files(release.repository)
    found = [
        PublishedFile(name)
        for file in release.files
        for name in names
        if "/" not in name and fnmatch.fnmatchcase(name, file.name)
    ]
    if not found:
        raise DownloadFailed(f"{release.repository} has no {release.files[0].name}")
    return found


def _remote(repository: str, file: PublishedFile, folder: Path) -> Remote:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = _endpoint()
    with _told(f"{file.name} of {repository}"):
        told = get_hf_file_metadata(
            hf_hub_url(repository, file.name, endpoint=endpoint), endpoint=endpoint
        )
    name = f"{file.name} of {repository}"
    if told.size is None or not told.etag or not _GIT_SHA1.fullmatch(told.commit_hash or ""):
        raise DownloadFailed(
            f"{name}: {endpoint or 'the hub'} does not tell its size, tag and commit as Hugging Face's hub does; "
            "check HF_ENDPOINT and the proxy"
        )
    if file.num_bytes not in (None, told.size):
        raise DownloadFailed(
            f"{name}: expected {file.num_bytes:,} bytes, {endpoint or 'the hub'} has {told.size:,}: it is another "
            f"file by now; `hf download {repository} {file.name}` loads it all the same"
        )
    is_known = _SHA256.fullmatch(told.etag) or _GIT_SHA1.fullmatch(told.etag)
    tag = re.sub(r"[^\w-]", "", told.etag)[:80]
    return Remote(
        repository,
        file.name,
        told.commit_hash or "",
        told.size,
        told.etag if is_known else "",
        folder / file.name,
        folder / DOWNLOADS / f"{file.name}.{tag}.incomplete",
    )


def _load(remote: Remote, on_progress: OnProgress) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars, logging

    remote.target.parent.mkdir(parents=True, exist_ok=True)
    if remote.bytes_so_far > remote.num_bytes:
        remote.half.unlink()
    # progress and trouble are told by whoever asked
    disable_progress_bars("huggingface_hub.http_get")
    logging.set_verbosity_error()
    url = hf_hub_url(remote.repository, remote.name, revision=remote.commit, endpoint=_endpoint())
    with _told(_named(remote)), _Growing(remote.half, on_progress) as file:
        http_get(
            url,
            file,  # type: ignore[arg-type]  # a raw file is one of its kind
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=remote.num_bytes,
            displayed_filename=remote.name,
        )
        os.fsync(file.fileno())


class _Growing(io.FileIO):
    """A file that is written at its end, and says how far that is."""

    def __init__(self, path: Path, on_progress: OnProgress) -> None:
        super().__init__(path, "ab")
        self._on_progress = on_progress

    def write(self, data: Any) -> int:
        view = memoryview(data)
        written = 0
        while written < len(view):  # a raw file may take a part of it
            written += super().write(view[written:]) or 0
        self._on_progress(self.tell())
        return written


def _check(remote: Remote, path: Path, on_check: OnProgress) -> None:
    """Removes a file that is not what the hub tells of."""
    found = path.stat().st_size
    if found != remote.num_bytes:
        path.unlink()
        raise DownloadFailed(
            f"{_named(remote)}: {found:,} bytes came, expected {remote.num_bytes:,}; they were removed, load it again"
        )
    digest = _digest_of(path, remote.digest, on_check)
    if digest != remote.digest:
        path.unlink()
        raise DownloadFailed(
            f"{_named(remote)}: what came is not what the hub tells of (its digest is {digest}, expected "
            f"{remote.digest}); it was removed, load it again"
        )


def _digest_of(path: Path, like: str, on_check: OnProgress) -> str:
    """The digest of a file, of the kind that `like` is; "" for none."""
    if not like:
        return ""
    made = hashlib.sha256() if _SHA256.fullmatch(like) else hashlib.sha1(usedforsecurity=False)
    if len(like) == 40:
        made.update(b"blob %d\0" % path.stat().st_size)  # as Git names a file
    done = 0
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            made.update(piece)
            done += len(piece)
            on_check(done)
    return made.hexdigest()


@contextmanager
def _alone(remote: Remote) -> Iterator[None]:
    """No other process loads this file in the meantime."""
    remote.half.parent.mkdir(parents=True, exist_ok=True)
    lock = locks.try_acquire(remote.half.with_name(f"{remote.half.name}.lock"))
    if lock is None:
        raise DownloadFailed(f"{_named(remote)}: another process is loading it; wait for that one")
    with lock:
        yield


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What huggingface_hub raises, as one line without its requests and their headers."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    where = _endpoint() or "https://huggingface.co"
    try:
        yield
    except OfflineModeIsEnabled:
        raise DownloadFailed(
            f"{what}: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it"
        ) from None
    except GatedRepoError:
        raise DownloadFailed(
            f"{what}: its licence is to be accepted first, on {where}/{what.rpartition(' ')[2]}; then "
            "`hf auth login` with that account, or set HF_TOKEN"
        ) from None
    except EntryNotFoundError:
        raise DownloadFailed(f"{what}: {where} has no such file (any more)") from None
    except RepositoryNotFoundError:
        raise DownloadFailed(
            f"{what}: {where} has no such repository, or shows it only to those who are logged in; `hf auth login`, "
            "or set HF_TOKEN"
        ) from None
    except HfHubHTTPError as error:
        raise DownloadFailed(f"{what}: {where} answers {_status(error)}") from None
    except _network_errors() as error:
        if getattr(error, "errno", None) in _OF_DISKS:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DownloadFailed(
            f"{what}: {where} does not answer, or no longer ({reason}); the same command goes on where it stopped"
        ) from None


def _status(error: Any) -> str:
    response = getattr(error, "response", None)
    return f"{response.status_code}" if response is not None else "with an error"


def _network_errors() -> tuple[type[Exception], ...]:
    """Those of the library that huggingface_hub has loaded for itself, which differs by its version; OSError is what it
    raises for a file that came too short."""
    modules = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return (OSError, *(module.HTTPError for module in modules if module is not None))


def _named(remote: Remote) -> str:
    return f"{remote.name} of {remote.repository}"


def _endpoint() -> str | None:
    """The mirror that somebody chose, as it is set now; huggingface_hub reads it once."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def room_problem(remotes: Iterable[Remote], folder: Path) -> str:
    """Why the disk cannot take what is to be loaded; "" where it can."""
    left, free = bytes_left(remotes), free_bytes(folder)
    if left <= free:
        return ""
    return (
        f"{folder}: {decimal_size(left)} are to be loaded, and its disk has room for {decimal_size(free)}; make "
        "room, or choose another disk with --to FOLDER"
    )
