"""Runs worth exporting, and bundles forged byte by byte: what zipfile would never write."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine.process.version import installed_version
from presets.encoding import decode_spec, encode_spec
from presets.spec.run import RunSpec
from store.blobs import blobs
from store.blobs.tensors import encode_tensors
from store.bundle.exporting import export_bundle
from store.bundle.importing import import_bundle
from store.bundle.strict import BundleRefused
from store.keys import derive_key
from store.lineage.records import LinkRecord, Segment
from store.store import Store

VIDEO = b"\0\0\0\x18ftypisom" + bytes(range(200))
# What must not leave this machine; each is somewhere in a run of `make_run`.
SECRETS = ("alice", "/home", "gpu-box.example", "s3cret", "acme-client")


def spec_text(prompt: str = "a red star/moon", **fields: Any) -> bytes:
    """A run as it is submitted: with absolute paths, an address and a place to write to."""
    given = {
        "prompt": prompt,
        "components": {
            "text_encoder": {"checkpoint": "/home/alice/models/umt5-xxl.safetensors"},
            "denoiser": {"checkpoint": "/home/alice/models/Wan2.1-T2V-1.3B/"},
            "vae": {"checkpoint": "wan2.1-vae"},
        },
        "extensions": [
            {
                "name": "lora",
                "options": {
                    "file": "acme-client/star.safetensors",
                    "server": "http://gpu-box.example:8000/x?token=s3cret",
                    "strength": 0.30000000000000004,
                },
            }
        ],
        "output": {"path": "/home/alice/videos/star.mp4", "overwrite": True},
        **fields,
    }
    return encode_spec(decode_spec(json.dumps(given).encode()))


def tensors(seed: int, name: str = "velocity") -> bytes:
    generator = torch.Generator().manual_seed(seed)
    return encode_tensors({name: torch.randn(1, 4, 2, 3, 3, generator=generator)})


def make_run(
    store: Store,
    *,
    seed: int = 0,
    num_steps: int = 4,
    status: str = "done",
    parent: str = "",
    spec: bytes | None = None,
) -> str:
    """A run that has ended, with links of every kind: texts, steps, a keyframe, a video."""
    spec = spec_text(seed=seed) if spec is None else spec
    run_id = store.enqueue(
        spec,
        preset="/home/alice/presets/star.toml",
        output="/home/alice/videos/star.mp4",
        parent=parent,
        parent_step=2 if parent else None,
        segments=[Segment(2, spec_text("before"))] if parent else [],
    )
    engine = f"engine{run_id}"
    environment = json.dumps({"hostname": "gpu-box.example", "torch": "2.6", "user": "alice"})
    with store.register_engine(engine, pid=os.getpid(), version=installed_version()):
        store.lease(engine)
        store.set_environment(run_id, environment)
        store.stage(run_id, "text_encode", seconds=0.5, cached=False)

        def record(kind: str, index: int, facts: dict[str, Any], **given: Any) -> None:
            key = derive_key(kind, [seed, index, facts])
            link = LinkRecord(
                key, kind, seconds=0.25, environment=environment, facts=json.dumps(facts), **given
            )
            times = {"sigma": 1 / (index + 1), "timestep": 1000 - index} if kind == "step" else {}
            store.record_link(
                run_id, link, stage=kind, index=index, source="computed", seconds=0.25, **times
            )

        for index in range(2):
            data = tensors(seed + 100 + index, "states")
            prompt = "/a path? no, a prompt"
            record("text", index, {"prompt": prompt}, **stored(store, digest=data))
        for index in range(num_steps):
            latents = blobs.digest_of(tensors(seed + 300 + index, "latents"))
            given = stored(store, digest=tensors(seed + 200 + index))
            if index == 1:  # a keyframe, too
                given = stored(
                    store, digest=tensors(seed + 201), state=tensors(seed + 400, "history.0")
                )
            weights = {"file": "/home/alice/models/dit.safetensors", "print": f"wf1:{seed:064x}"}
            record("step", index, {"weights": weights}, latents=latents, **given)
        if status == "done":
            final = blobs.put(store.root, tensors(seed + 300 + num_steps - 1, "latents"))
            store.set_latents(run_id, final)
            record("video", 0, {"fps": 16}, **stored(store, digest=VIDEO + bytes([seed])))
        output = "/home/alice/videos/star.mp4"
        store.finish(run_id, status, error="" if status == "done" else "/home/alice", output=output)
        store.unregister_engine(engine)
    store.note(run_id, 'the hand is right\n\tfrom "12" on 🙂')
    store.tag(run_id, ["keep", "client/two"])
    return run_id


def stored(store: Store, **data: bytes) -> dict[str, Any]:
    digests = {name: blobs.put(store.root, value) for name, value in data.items()}
    return {**digests, "num_bytes": sum(map(len, data.values()))}


def check_spec(encoded: bytes) -> RunSpec:
    try:
        return decode_spec(encoded)
    except ValueError as error:
        raise BundleRefused(f"spec: {error}") from error


def take(store: Store, path: Path, *, is_trusted: bool = False, max_bytes: int = 10**9):
    return import_bundle(
        store.lineage, path, check_spec=check_spec, is_trusted=is_trusted, max_bytes=max_bytes
    )


def export(store: Store, path: Path, *run_ids: str, **options: Any) -> Path:
    export_bundle(store.lineage, run_ids, path, made_by="modiff test", **options)
    return path


def unpacked(path: Path) -> dict[str, bytes]:
    """The members of an archive, as zipfile reads them."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def manifest_of(path: Path) -> dict[str, Any]:
    return json.loads(unpacked(path)["manifest.json"])


def contents(store: Store) -> dict[str, Any]:
    """All that an import may change: rows of every table that it writes, files of the store."""
    tables = ("runs", "tags", "stages", "events", "links", "run_links")
    found: dict[str, Any] = {
        table: store.lineage.db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        for table in tables
    }
    for folder in ("blobs", "tmp", "quarantine"):
        files = [path for path in (store.root / folder).rglob("*") if not path.is_dir()]
        found[folder] = sorted(path.name for path in files)
    return found


@dataclass
class Part:
    """A member of a forged archive. local, central: fields that say something else than the truth."""

    name: bytes
    data: bytes
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    written: bytes | None = None  # what stands in the file, where that is not `data`


@dataclass
class Forgery:
    """An archive as told by its fields; all of them true unless they are changed."""

    parts: list[Part]
    before: bytes = b""
    gap: bytes = b""
    after: bytes = b""
    end: dict[str, Any] = field(default_factory=dict)
    comment: bytes = b""
    before_directory: bytes = b""
    tail: bytes = b""
    before_end: bytes = b""

    def find(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name.encode())

    @property
    def blob(self) -> Part:
        return next(part for part in self.parts if part.name.startswith(b"blobs/"))

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads(self.find("manifest.json").data)

    @manifest.setter
    def manifest(self, value: Any) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.find("manifest.json").data = data

    def add_blob(self, data: bytes) -> str:
        digest = blobs.digest_of(data)
        self.parts.insert(0, Part(f"blobs/{digest[7:]}".encode(), data))
        return digest

    def __bytes__(self) -> bytes:
        file = io.BytesIO()
        file.write(self.before)
        directory = b""
        for part in self.parts:
            data = part.data if part.written is None else part.written
            true = {
                "flags": 0,
                "method": 0,
                "crc": zlib.crc32(part.data),
                "packed": len(data),
                "unpacked": len(part.data),
                "name": part.name,
                "extra": b"",
                "system": 3,
                "attributes": (stat.S_IFREG | 0o600) << 16,
                "offset": file.tell(),
                "disk": 0,
                "comment": b"",
                "signature": b"PK\1\2",
            }
            local, central = {**true, **part.local}, {**true, **part.central}
            file.write(
                struct.pack(
                    "<4s5H3L2H", b"PK\3\4", 20, local["flags"], local["method"], 0, 33,
                    local["crc"], local["packed"], local["unpacked"], len(local["name"]),
                    len(local["extra"]),
                ) + local["name"] + local["extra"]
            )  # fmt: skip
            file.write(data + self.gap)
            directory += (
                struct.pack(
                    "<4s6H3L5H2L", central["signature"], 20 + (central["system"] << 8), 20, central["flags"],
                    central["method"], 0, 33, central["crc"], central["packed"],
                    central["unpacked"], len(central["name"]), len(central["extra"]),
                    len(central["comment"]), central["disk"], 0, central["attributes"],
                    central["offset"],
                ) + central["name"] + central["extra"] + central["comment"]
            )  # fmt: skip
        directory += self.tail
        file.write(self.before_directory)
        end = {
            "disk": 0,
            "count": len(self.parts),
            "length": len(directory),
            "start": file.tell(),
            "comment_length": len(self.comment),
            **self.end,
        }
        file.write(directory + self.before_end)
        file.write(
            struct.pack(
                "<4s4H2LH", b"PK\5\6", end["disk"], 0, end["count"], end["count"], end["length"],
                end["start"], end["comment_length"],
            ) + self.comment
        )  # fmt: skip
        return file.getvalue() + self.after


def forgery(path: Path) -> Forgery:
    """A forgery of a bundle with nothing changed yet."""
    return Forgery([Part(name.encode(), data) for name, data in unpacked(path).items()])
