"""Hostile bundles and failing disks: refused in one line, and the store is as it was.

Every forgery is one change to a bundle that would come in, so that it is refused for that change.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import socket
import stat
import struct
import time
import zlib
from pathlib import Path
from random import Random

import pytest

from store.blobs import blobs
from store.bundle import archive, importing, manifest, strict
from store.bundle.strict import BundleRefused
from store.database.database import rows
from store.errors import StoreError, StoreFull
from store.store import open_store
from tests.stores import bundles
from tests.stores.bundles import VIDEO, export, forgery, make_run, take, tensors

# CPU seconds, forty times the slowest: only what grows with the square of a file, or unpacks a bomb, gets there.
MAX_SECONDS = 2.0


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    """A bundle of two runs, one branched from the other."""
    folder = tmp_path_factory.mktemp("genuine")
    with open_store(folder / "store") as store:
        parent = make_run(store, seed=1, num_steps=2)
        child = make_run(store, seed=2, num_steps=2, parent=parent)
        return export(store, folder / "genuine.modiff", parent, child)


@pytest.fixture
def forged(genuine):
    return forgery(genuine)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "forged.modiff"


def refuse(store, path, reason, **options):
    """The bundle is refused for that reason, in a line that a terminal can show."""
    before = bundles.contents(store)
    began = time.process_time()
    with pytest.raises(BundleRefused, match=reason) as told:
        take(store, path, is_trusted=True, **options)
    assert time.process_time() - began < MAX_SECONDS
    assert str(told.value).removeprefix(str(path)).isprintable()
    assert len(str(told.value)) < 1000
    assert bundles.contents(store) == before
    assert before["runs"] == before["links"] == before["blobs"] == before["tmp"] == []
    store.check()


@pytest.fixture
def write(store, path):
    def write_and_refuse(forged, reason, **options):
        path.write_bytes(bytes(forged))
        refuse(store, path, reason, **options)

    return write_and_refuse


def test_the_forgery_with_nothing_changed_comes_in(store, forged, path):
    path.write_bytes(bytes(forged))
    done = take(store, path, is_trusted=True)
    assert [run.is_new for run in done.runs] == [True, True]
    assert done.num_blobs == len(forged.parts) - 1
    assert done.num_links == 10


# The file


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(write, forged, share):
    data = bytes(forged)
    write(data[: int(share * len(data))], "no zip archive")


@pytest.mark.parametrize("data", [b"PK\5\6", b"PK\5\6" + bytes(18), b"\x1f\x8b" + bytes(99)])
def test_another_kind_of_file(write, data):
    write(data, "no zip archive|no manifest")


def test_a_fifo_a_socket_a_device_and_a_folder(store, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    refuse(store, tmp_path / "fifo", "not a file")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        refuse(store, tmp_path / "socket", "cannot be opened")
    refuse(store, tmp_path, "not a file")
    refuse(store, Path("/dev/zero"), "not a file")
    refuse(store, tmp_path / "none", "cannot be opened")
    refuse(store, Path("a\0b"), "cannot be the name")


def test_a_symbolic_link(store, tmp_path, genuine):
    (tmp_path / "link").symlink_to(genuine)
    refuse(store, tmp_path / "link", "it is a symbolic link")
    (tmp_path / "secret").symlink_to("/etc/passwd")
    refuse(store, tmp_path / "secret", "it is a symbolic link")


def test_a_file_larger_than_the_budget(store, genuine):
    size = genuine.stat().st_size
    refuse(store, genuine, f"expected at most {size - 1:,}; --max-size", max_bytes=size - 1)
    assert take(store, genuine, max_bytes=size).runs


# The archive


@pytest.mark.parametrize(
    "name",
    [
        b"../../evil",
        b"blobs/../../evil",
        b"/etc/cron.d/evil",
        b"C:\\evil",
        b"..\\..\\evil",
        b"blobs\\" + b"a" * 64,
        b"blobs/" + b"a" * 63 + b"\0",
        b"blobs/" + b"a" * 64 + b"\0.sh",
        b"blobs/" + b"a" * 64 + b"\n",
        b"blobs/" + b"A" * 64,
        b"blobs/" + b"a" * 65,
        b"blobs/" + "а".encode() * 64,
        b"blobs//" + b"a" * 64,
        b"blobs/",
        b"./manifest.json",
        b"MANIFEST.JSON",
        b"manifest.json/",
        b"",
        b"\x1b[2Jmanifest.json",
    ],
)
def test_a_member_of_another_name(write, forged, name):
    forged.parts.append(bundles.Part(name, b"evil"))
    write(forged, "it has the member b['\"]")


def test_a_member_of_another_name_in_its_own_header(write, forged):
    forged.blob.local["name"] = b"blobs/../../../../" + b"e" * 52
    write(forged, "is not what the directory says")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFBLK])
def test_a_link_a_folder_or_a_device_as_member(write, forged, kind):
    forged.blob.central["attributes"] = (kind | 0o777) << 16
    write(forged, "no plain file")


@pytest.mark.parametrize("name", ["manifest.json", "blob"])
@pytest.mark.parametrize("is_overlapping", [False, True])
def test_a_member_that_is_there_twice(write, forged, name, is_overlapping):
    part = forged.blob if name == "blob" else forged.find(name)
    offset = {"offset": 0} if is_overlapping else {}
    forged.parts.append(bundles.Part(part.name, part.data, central=offset))
    write(forged, "is there twice")


def test_a_deflate_bomb(write, forged):
    packed = zlib.compress(bytes(64 << 20), 9)[2:-4]
    part = forged.add_blob(bytes(64 << 20)) and forged.blob
    part.written = packed
    for header in (part.local, part.central):
        header["method"] = 8
    write(forged, "compressed")
    for header in (part.local, part.central):
        header["method"] = 0
    write(forged, "two sizes")


@pytest.mark.parametrize("flags", [1, 1 << 3, 1 << 5, 1 << 6, 1 << 13, 0xFFFF])
@pytest.mark.parametrize("where", ["central", "local", "both"])
def test_a_member_that_is_encrypted_or_of_unknown_size(write, forged, flags, where):
    part = forged.find("manifest.json")
    for header in ("central", "local"):
        if where in (header, "both"):
            getattr(part, header)["flags"] = flags
    write(forged, "encrypted or of unknown size|is not what the directory says")


@pytest.mark.parametrize("field", ["packed", "unpacked", "crc", "method"])
@pytest.mark.parametrize("where", ["central", "local"])
@pytest.mark.parametrize("value", [7, 0xFFFFFFFE])
def test_headers_that_say_different_things(write, forged, field, where, value):
    getattr(forged.blob, where)[field] = value & 0xFFFF if field == "method" else value
    write(forged, "two sizes|not what the directory says|compressed")


@pytest.mark.parametrize("size", [0, 10, 1 << 31, 0xFFFFFFFE])
def test_a_size_on_which_both_headers_lie(write, forged, size):
    for header in (forged.blob.local, forged.blob.central):
        header |= {"packed": size, "unpacked": size}
    write(forged, "overlap or leave gaps|belong to no member")


def test_a_checksum_on_which_both_headers_lie(write, forged):
    for header in (forged.blob.local, forged.blob.central):
        header["crc"] = 1
    write(forged, "does not have the checksum")


@pytest.mark.parametrize("offset", [0, 1, 1 << 31, 0xFFFFFFFE])
def test_members_that_overlap(write, forged, offset):
    forged.parts[1].central["offset"] = offset
    write(forged, "overlap or leave gaps|not what the directory says|ends after|shorter")


def test_a_bomb_of_members_in_members(write, forged):
    """Every member holds all that follow, as in David Fifield's zip bomb."""
    inner = bytes(forged)
    forged.parts = [bundles.Part(b"blobs/" + b"0" * 64, inner), *forged.parts]
    forged.parts[1].central["offset"] = 30 + 70
    write(forged, "overlap or leave gaps")


@pytest.mark.parametrize("place", ["before", "gap", "before_directory", "before_end", "after"])
def test_bytes_of_no_member(write, forged, place):
    setattr(forged, place, b"#!/bin/sh\nevil\n")
    write(forged, "overlap|gaps|no member|does not fit|no zip archive")


def test_bytes_of_no_member_in_the_directory(write, forged):
    forged.tail = b"#!/bin/sh\nevil\n"
    write(forged, "more bytes than its members")


def test_an_archive_appended_to_another(write, forged):
    write(bytes(forged) + bytes(forged), "overlap|gaps|does not fit")


@pytest.mark.parametrize("num_wide", [0, 1, 2, 3])
@pytest.mark.parametrize("where", ["central", "local"])
def test_lies_in_the_fields_of_large_files(write, forged, num_wide, where):
    size = len(forged.blob.data)
    header = getattr(forged.blob, where)
    header["extra"] = struct.pack(f"<2H{num_wide}Q", 1, 8 * num_wide, *[size + 1] * num_wide)
    write(forged, "beside its name|not what the directory says")
    header |= {"packed": 0xFFFFFFFF, "unpacked": 0xFFFFFFFF}
    write(forged, "beside its name|two sizes|overlap|not what the directory says|ends after")


def test_a_size_of_more_than_32_bits_without_its_field(write, forged):
    forged.blob.central |= {"packed": 0xFFFFFFFF, "unpacked": 0xFFFFFFFF}
    write(forged, "or lacks one")


@pytest.mark.parametrize("extra", [b"\0", b"UT\5\0\3abcd", struct.pack("<2H", 0x7075, 0)])
@pytest.mark.parametrize("where", ["central", "local"])
def test_other_extra_fields(write, forged, extra, where):
    getattr(forged.blob, where)["extra"] = extra
    write(forged, "has fields beside its name")


@pytest.mark.parametrize(
    "end",
    [
        {"count": 0},
        {"count": 3},
        {"count": 0xFFFF},
        {"length": 10},
        {"length": 0xFFFFFFFF},
        {"start": 0},
        {"start": 0xFFFFFFFF},
        {"disk": 1},
        {"comment_length": 1},
    ],
    ids=str,
)
def test_an_end_that_lies(write, forged, end):
    forged.end = end
    write(forged, "does not fit|fewer members|more bytes|no member|no zip archive|no zip|shorter")


def test_a_directory_of_something_else(write, forged):
    forged.blob.central["signature"] = b"PK\1\3"
    write(forged, "holds what is no member")


def test_two_ends_that_say_different_things(write, forged):
    forged.before_end = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 46, 0
    ) + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    write(forged, "two ends say different things")


def test_more_than_one_end(write, forged):
    forged.comment = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)
    write(forged, "more than one end")


def test_members_of_another_disk(write, forged):
    forged.blob.central["disk"] = 1
    write(forged, "no plain file")


def test_a_directory_that_is_too_large(write, forged, monkeypatch):
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 100)
    write(forged, "its directory has .* bytes, expected at most 100")


def test_a_file_that_shrinks_while_it_is_read(store, forged, path, monkeypatch):
    path.write_bytes(bytes(forged))
    real = importing.read_members

    def shrinking(file, size):
        found = real(file, size)
        os.truncate(path, size // 2)
        return found

    monkeypatch.setattr(importing, "read_members", shrinking)
    refuse(store, path, "shorter than it says")


def test_a_disk_that_cannot_be_read(store, forged, path, monkeypatch):
    path.write_bytes(bytes(forged))

    class Failing:
        def seek(self, at):
            raise OSError(errno.EIO, "Input/output error")

    real = importing.read_slices
    monkeypatch.setattr(importing, "read_slices", lambda file, member: real(Failing(), member))
    refuse(store, path, "cannot be read .Input/output error")


@pytest.mark.parametrize("seed", range(4))
def test_bytes_that_are_flipped_or_moved_never_bring_in_anything_else(store, genuine, path, seed):
    """What zip does not say twice may change (times, versions); what comes in never does."""
    random = Random(seed)
    data = genuine.read_bytes()
    again = path.with_name("again.modiff")
    for _ in range(100):
        damaged = bytearray(data)
        if random.random() < 0.3:
            begin, length = random.randrange(len(data)), random.randrange(1, 200)
            piece = bytes(random.choice([b"", damaged[:length], random.randbytes(length)]))
            damaged[begin : begin + length] = piece
        else:
            at = random.choice([random.randrange(len(data)), random.randrange(-1500, 0)])
            damaged[at] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        try:
            done = take(store, path, is_trusted=True)
        except BundleRefused:
            continue
        export(store, again, *(run.id for run in done.runs))
        assert again.read_bytes() == data
        again.unlink()


# Members and the manifest


def test_a_member_that_the_manifest_does_not_name(write, forged):
    forged.add_blob(tensors(99))
    write(forged, "only in its directory or only in its manifest")


def test_a_member_that_is_missing(write, forged):
    forged.parts.remove(forged.blob)
    write(forged, "only in its directory or only in its manifest")


def test_no_manifest(write, forged):
    forged.parts.remove(forged.find("manifest.json"))
    write(forged, "no manifest.json")


def test_a_manifest_that_is_too_large_is_not_read(write, forged, monkeypatch):
    monkeypatch.setattr(importing, "read_slices", None)
    forged.manifest = b" " * (4 << 20) + forged.find("manifest.json").data
    write(forged, "expected at most 4,194,304")


def raw(forged, old, new):
    """Change the text of the manifest in one place."""
    data = forged.find("manifest.json").data
    assert data.count(old) >= 1
    forged.manifest = data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"format":1', b'"format":1,"format":1', "'format' is there twice"),
        (b'"seconds":0.25', b'"seconds":NaN', "NaN is no number"),
        (b'"seconds":0.25', b'"seconds":-Infinity', "-Infinity is no number"),
        (b'"seconds":0.25', b'"seconds":1e999', "too large"),
        (b'"seconds":0.25', b'"seconds":-1', "not valid"),
        (b'"seconds":0.25', b'"seconds":"1"', "not valid"),
        (b'"seconds":0.25', b'"seconds":0x10', "not strict JSON"),
        (b'"seconds":0.25', b'"seconds":01', "not strict JSON"),
        (b'"stop_at":null', b'"stop_at":' + b"9" * 25, "too large"),
        (b'"stop_at":null', b'"stop_at":' + b"9" * 5000, "too large"),
        (b'"stop_at":null', b'"stop_at":' + b"[" * 500_000 + b"]" * 500_000, "nested too deeply"),
        (b'"stop_at":null', b'"stop_at":' + b"[" * 70 + b"]" * 70, "nested too deeply"),
        (b'"stop_at":null', b'"stop_at":' + b"[" * 500_000, "nested too deeply|not strict"),
        (b'"stop_at":null', b'"stop_at":-1', "not valid"),
        (b'"stop_at":null', b'"stop_at":1.0', "not valid"),
        (b'"format":1', b'"format":2', "newest that this modiff reads is 1; update"),
        (b'"format":1', b'"format":2,"news":[]', "newest that this modiff reads is 1; update"),
        (b'"format":1', b'"format":true', "not valid"),
        (b'"format":1', b'"format":1.0', "not valid"),
        (b'"format":1', b'"format":0', "not valid"),
        (b'"format":1', b'"format":"1"', "not valid"),
        (b'"format":1,', b"", "not valid"),
        (b'"format":1', b'"format":1,"extra":1', "not valid"),
        (b'"format":1', b'"format":1,"\x1b[2J":1', "not strict JSON"),
        (b'"format":1', b'"format":1,"\\u001b[2J\\n":1', "not valid"),
        (b'"made_by":"modiff test"', b'"made_by":"\\u001b[2J"', "not valid"),
        (b'"status":"done"', b'"status":"running"', "not valid"),
        (b'"status":"done"', b'"status":"done\\n"', "not valid"),
        (b'"format":1', b'"format":1,"\\ud800":1', "not valid: a text is not Unicode"),
        (b'"tags":["client/two"', b'"tags":["a b"', "not valid"),
        (b'"tags":["client/two"', b'"tags":["keep"', "tag of .* is there twice"),
        (b'"note":"', b'"note":"\\u001b[31m', "control characters"),
        (b'"note":"', b'"note":"\\u202e', "control characters"),
        (b'"note":"', b'"note":"\\u0000', "control characters"),
        (b'"note":"', b'"note":"\\ud800', "control characters"),
        (b'"note":"', b'"note":"' + b"x" * 10_001, "not valid"),
        (b'"preset":"star.toml"', b'"preset":"../star.toml"', "control characters or a path"),
        (b'"preset":"star.toml"', b'"preset":"\\u001b]0;evil\\u0007"', "control characters"),
        (b'"size":', b'"size":1', "expected 1[0-9]+"),
        (b'"size":', b'"size":-', "not valid"),
        (b'"size":', b'"size":0.0,"x":', "not valid"),
        (b'"size":', b'"size":true,"x":', "not valid"),
        (b'"size":', b'"size":1e2,"x":', "not valid"),
        (b'"kind":"', b'"kind":"; DROP TABLE runs', "not valid"),
        (b'"stage":"step"', b'"stage":"../step"', "not valid"),
        (b'"stage":"step"', b'"stage":"text"', "link of run .* is there twice"),
        (b'"source":"computed"', b'"source":"imagined"', "not valid"),
        (b'"key":"k1:', b'"key":"K1:', "not valid"),
        (b"sha256:", b"sha256:../", "not valid"),
        (b"sha256:", b"md5:", "not valid"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_as_it_should_be(write, forged, old, new, reason):
    raw(forged, old, new)
    write(forged, reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not strict JSON"),
        (b"null", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{}", "not valid"),
        (b"\xff\xfe{\0}\0", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not strict JSON"),
        (b"{} {}", "not strict JSON"),
        (b'{"format":1,"made_by":"","runs":[],"links":[],"blobs":[]}', "names no run"),
        (pickle.dumps({"format": 1}), "not UTF-8|not strict JSON"),
    ],
)
def test_a_manifest_that_is_something_else(write, forged, data, reason):
    forged.manifest = data
    write(forged, reason)


NO_IDS = (
    "x'); DROP TABLE runs; --",
    "a' OR '1'='1",
    "../../evil",
    "a" * 9,
    "a" * 11,
    "a" * 10 + "\n",
)


@pytest.mark.parametrize(
    ("field", "run_id"), [("id", ""), *((name, bad) for name in ("id", "parent") for bad in NO_IDS)]
)
def test_ids_that_are_none(write, forged, field, run_id):
    manifest = forged.manifest
    manifest["runs"][0][field] = run_id
    forged.manifest = manifest
    write(forged, "not valid")


def change_runs(manifest):
    manifest["runs"].append(manifest["runs"][0])


def change_links(manifest):
    manifest["links"].append(manifest["links"][0])


def change_blobs(manifest):
    manifest["blobs"].append(manifest["blobs"][0])


def change_parents(manifest):
    first, second = manifest["runs"]
    first["parent"], second["parent"] = second["id"], first["id"]


def change_parent(manifest):
    manifest["runs"][0]["parent"] = manifest["runs"][0]["id"]


def change_segments(manifest):
    run = manifest["runs"][0]
    run["segments"] = [{"stop": 2, "spec": run["spec"]}, {"stop": 2, "spec": run["spec"]}]


def change_digest(manifest):
    manifest["links"][0]["digest"] = "sha256:" + "a" * 64


def change_state(manifest):
    manifest["links"][0]["state"] = "sha256:" + "a" * 64


def change_stages(manifest):
    manifest["runs"][0]["stages"] *= 2


def change_environment(manifest):
    manifest["runs"][0]["environment"] = '{"hostname":"gpu-box"}'


def change_environment_of_link(manifest):
    manifest["links"][0]["environment"] = '{"x":"/home/alice/lib"}'


def change_facts(manifest):
    manifest["links"][0]["facts"] = '{"x":NaN}'


def change_facts_depth(manifest):
    manifest["links"][0]["facts"] = '{"x":' + "[" * 1000 + "]" * 1000 + "}"


def change_facts_surrogate(manifest):
    manifest["links"][0]["facts"] = '{"x":"\ud800"}'


def change_kind(manifest):
    """The latents of a run, as a video too."""
    run = manifest["runs"][0]
    seen = next(seen for seen in run["seen"] if seen["stage"] == "video")
    seen["digest"] = run["latents"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_runs, "the run .* is there twice"),
        (change_links, "the link .* is there twice"),
        (change_blobs, "the blob .* is there twice"),
        (change_parents, "in a circle"),
        (change_parent, "in a circle"),
        (change_segments, "expected rising steps"),
        (change_digest, "names sha256:a+, which is not in it"),
        (change_state, "names sha256:a+, which is not in it"),
        (change_stages, "the stage of run .* is there twice"),
        (change_environment, "names a path or a machine"),
        (change_environment_of_link, "names a path or a machine"),
        (change_facts, "NaN is no number"),
        (change_facts_depth, "nested too deeply"),
        (change_facts_surrogate, "not strict JSON"),
        (change_kind, "named as a video and as tensors"),
    ],
)
def test_rows_that_contradict_each_other(write, forged, change, reason):
    manifest = forged.manifest
    change(manifest)
    forged.manifest = manifest
    write(forged, reason)


def test_a_blob_that_nothing_names(write, forged):
    manifest = forged.manifest
    digest = forged.add_blob(tensors(99))
    manifest["blobs"].append({"digest": digest, "size": len(tensors(99))})
    forged.manifest = manifest
    write(forged, "which nothing in it names")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"output": {"path": "/etc/cron.d/evil"}}, "names a path"),
        ({"output": {"path": "evil.mp4"}}, "names a path"),
        ({"output": {"overwrite": True}}, "names a path"),
        ({"components": {"vae": {"checkpoint": "/etc/passwd"}}}, "names a path"),
        ({"components": {"vae": {"checkpoint": "../../x"}}}, "names a path"),
        ({"components": {"vae": {"checkpoint": "~root/x"}}}, "names a path"),
        ({"components": {"vae": {"checkpoint": r"\\evil\share"}}}, "names a path"),
        ({"components": {"text_encoder": {"checkpoint": "http://evil/"}}}, "names a path"),
        ({"extensions": [{"name": "x", "options": {"f": "/etc/x"}}]}, "names a path"),
        ({"extensions": [{"name": "../x"}]}, "names a path"),
        ({"scheduler": {"steps": -1}}, "spec: "),
        ({"scheduler": {"steps": 10**9}}, "spec: "),
        ({"width": 10**6}, "spec: "),
        ({"seed": True}, "spec: "),
        ({"format": 99}, "spec: .*update modiff"),
        ({"__proto__": 1}, "spec: "),
        ({"prompt": "x" * 100_000}, "spec: "),
        ({"prompt": ["{{ config }}"]}, "spec: "),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("is_segment", [False, True])
def test_a_spec_that_is_not_valid_or_leads_elsewhere(write, forged, change, reason, is_segment):
    manifest = forged.manifest
    run = manifest["runs"][0]
    spec = json.dumps(json.loads(run["spec"]) | change)
    if is_segment:
        run["segments"] = [{"stop": 1, "spec": spec}]
    else:
        run["spec"] = spec
    forged.manifest = manifest
    write(forged, reason)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "[]",
        '{"seed":1,"seed":2}',
        '{"seed":NaN}',
        '{"a":' * 100_000,
        "!!python/object/apply:os.system ['true']",
    ],
    ids=lambda spec: spec[:20],
)
def test_a_spec_that_is_no_strict_json(write, forged, spec):
    manifest = forged.manifest
    manifest["runs"][0]["spec"] = spec
    forged.manifest = manifest
    write(forged, "not strict JSON|not a JSON object|nested too deeply")


# Blobs


def replace_blob(forged, old, new):
    """Put other bytes in a blob's place, under their own name, everywhere."""
    old_digest, digest = blobs.digest_of(old), blobs.digest_of(new)
    text = forged.find("manifest.json").data.replace(old_digest.encode(), digest.encode())
    manifest = json.loads(text)
    for row in manifest["blobs"]:
        if row["digest"] == digest:
            row["size"] = len(new)
    part = forged.find(f"blobs/{old_digest[7:]}")
    part.name, part.data = f"blobs/{digest[7:]}".encode(), new
    forged.manifest = manifest


def tensor_file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def f32(*shape, at=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/evil",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pickle.dumps(Evil()), "no tensor file"),
        (b"PK\3\4" + bytes(100), "no tensor file"),
        (b"\x7fELF" + bytes(100), "no tensor file"),
        (b"", "is empty"),
        (b"\1", "no tensor file"),
        (tensor_file(b"{}", length=2**62), "no tensor file"),
        (tensor_file(b"{}", length=2**64 - 1), "no tensor file"),
        (tensor_file(b"{}", length=0), "no tensor file"),
        (tensor_file(b" " * (1 << 20) + b"{}"), "no tensor file"),
        (tensor_file({f"{i}": f32(0, at=(0, 0)) for i in range(4097)}), "4097 tensors"),
        (tensor_file({"a": f32(*[1] * 9)}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(*[1] * 200)}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(2**32, 2**32, at=(0, 0))}), "no tensor file"),
        (tensor_file({"a": f32(2**63, at=(0, 4))}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(-1, at=(0, 4))}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(1), "b": f32(1)}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(1), "b": f32(1, at=(8, 12))}, bytes(12)), "no tensor file"),
        (tensor_file({"a": f32(1, at=(4, 8))}, bytes(8)), "no tensor file"),
        (tensor_file({"a": f32(1, at=(4, 0))}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(1)}, bytes(3)), "no tensor file"),
        (tensor_file({"a": f32(1)}, bytes(5)), "no tensor file"),
        (tensor_file({"a": f32(1, dtype="OBJECT")}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(0, at=(0, 0), dtype="OBJECT")}), "no tensor file"),
        (tensor_file({"a": f32(1.0)}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(True)}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(1), "__metadata__": {"x": "y"}}, bytes(4)), "no tensor file"),
        (tensor_file({"a": f32(1) | {"code": "x"}}, bytes(4)), "no tensor file"),
        (tensor_file(b'{"a":1,"a":2}'), "is there twice"),
        (tensor_file(b"\xff\xff"), "not UTF-8"),
        (tensor_file(b"[" * 100_000), "nested too deeply|not strict JSON"),
    ],
)
def test_a_blob_that_is_no_tensor_file(write, forged, data, reason):
    replace_blob(forged, tensors(302, "latents"), data)
    write(forged, reason)


def test_the_tensor_file_that_these_are_made_from_comes_in(store, forged, path):
    replace_blob(forged, tensors(302, "latents"), tensor_file({"a": f32(1)}, bytes(4)))
    path.write_bytes(bytes(forged))
    assert take(store, path).runs


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x18", b"#!/bin/sh\n", tensors(1)], ids=repr)
def test_a_video_that_is_none(write, forged, data):
    replace_blob(forged, VIDEO + b"\1", data)
    write(forged, "is no video|is empty|as a video and as tensors|there twice")


def test_a_blob_of_another_hash_than_its_name(write, forged):
    good = tensors(302, "latents")
    part = forged.find(f"blobs/{blobs.digest_of(good)[7:]}")
    part.data = good[:-1] + bytes([good[-1] ^ 1])
    write(forged, "does not have the hash that is its name")


def test_the_last_of_many_blobs_is_bad(write, forged):
    part = next(part for part in reversed(forged.parts) if part.name.startswith(b"blobs/"))
    part.data = part.data[:-1] + bytes([part.data[-1] ^ 1])
    write(forged, "does not have the hash")


def test_what_only_links_name_is_checked_without_trust_too(store, forged, path):
    keyframe = tensors(401, "history.0")
    part = forged.find(f"blobs/{blobs.digest_of(keyframe)[7:]}")
    part.data = keyframe[:-1] + bytes([keyframe[-1] ^ 1])
    path.write_bytes(bytes(forged))
    with pytest.raises(BundleRefused, match="does not have the hash"):
        take(store, path, is_trusted=False)


def test_what_is_here_already_is_no_excuse_for_a_lie(store, forged, path, genuine):
    take(store, genuine)
    before = bundles.contents(store)
    forged.blob.data = forged.blob.data[:-1] + bytes([forged.blob.data[-1] ^ 1])
    path.write_bytes(bytes(forged))
    with pytest.raises(BundleRefused, match="does not have the hash"):
        take(store, path)
    assert bundles.contents(store) == before


def test_an_imported_output_is_written_nowhere(store, genuine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    take(store, genuine, is_trusted=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["store"]


# Disks that fail


def is_untouched(store):
    found = bundles.contents(store)
    return not any(found.values())


def failing(real, after, code):
    """`real`, which fails from its call number `after` on."""
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    return call


CALLS = ("write", "open", "rename", "fchmod")
CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


@pytest.mark.parametrize(
    ("call", "after", "code"),
    [  # every two of them together
        (call, (0, 1, 5)[(i + j) % 3], code)
        for i, call in enumerate(CALLS)
        for j, code in enumerate(CODES)
    ],
)
def test_a_disk_that_fails_leaves_nothing(store, genuine, monkeypatch, call, after, code):
    if call == "open":
        after += 1  # the bundle itself
    with monkeypatch.context() as patch:
        patch.setattr(importing.os, call, failing(getattr(os, call), after, code))
        is_full = code in (errno.ENOSPC, errno.EDQUOT) and call != "open"  # a lock, it may be
        kind = StoreFull if is_full else StoreError
        with pytest.raises(kind) as told:
            take(store, genuine, is_trusted=True)
    assert "\n" not in str(told.value)
    assert is_untouched(store)
    assert take(store, genuine, is_trusted=True).num_blobs > 0
    store.check()


@pytest.mark.parametrize("after", [0, 1, 7])
@pytest.mark.parametrize("call", ["sync_file", "sync_folder"])
def test_a_disk_that_cannot_sync_leaves_nothing(store, genuine, monkeypatch, call, after):
    monkeypatch.setattr(importing, call, failing(getattr(importing, call), after, errno.ENOSPC))
    with pytest.raises(StoreFull):
        take(store, genuine, is_trusted=True)
    assert is_untouched(store)


@pytest.mark.parametrize("limit", [0, 100, 700])
def test_a_limit_on_files_leaves_nothing(store, genuine, limit):
    """The system itself refuses: the first blob, a later one, or the database."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StoreError):
            take(store, genuine, is_trusted=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_untouched(store)


@pytest.mark.parametrize("where", ["insert_runs", "insert_links"])
def test_a_database_that_is_full_leaves_nothing(store, genuine, monkeypatch, where):
    real = getattr(importing, where)

    def fill(*arguments):
        done = real(*arguments)
        [(num_pages,)] = rows(store.lineage, "PRAGMA page_count")
        store.lineage.db.execute(f"PRAGMA max_page_count={num_pages}")
        store.lineage.db.execute("UPDATE runs SET note=?", ("x" * 1_000_000,))
        return done

    monkeypatch.setattr(importing, where, fill)
    with pytest.raises(StoreFull):
        take(store, genuine, is_trusted=True)
    assert is_untouched(store)
    store.check()


def test_a_bundle_that_does_not_fit_is_told_before_it_is_copied(store, genuine, monkeypatch):
    monkeypatch.setattr(
        importing.shutil, "disk_usage", lambda root: importing.shutil._ntuple_diskusage(9, 9, 100)
    )
    monkeypatch.setattr(importing, "_copy", None)
    with pytest.raises(StoreFull, match=r"it takes [0-9,]+ bytes, 100 are free"):
        take(store, genuine)
    assert is_untouched(store)


def test_a_blob_that_another_asked_for_meanwhile_stays(store, genuine, monkeypatch):
    """Its row may be on its way: only what nobody else touched is taken back."""
    wanted = tensors(302, "latents")

    def insert(*arguments):
        time.sleep(0.01)
        blobs.put(store.root, wanted)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(importing, "insert_runs", insert)
    with pytest.raises(StoreFull):
        take(store, genuine)
    assert bundles.contents(store)["blobs"] == [blobs.digest_of(wanted)[7:]]


def test_what_was_here_before_stays_when_an_import_fails(store, genuine, monkeypatch):
    before = [blobs.put(store.root, tensors(seed, "latents")) for seed in (301, 302)]
    monkeypatch.setattr(importing, "insert_runs", failing(None, 0, errno.ENOSPC))
    with pytest.raises(StoreFull):
        take(store, genuine)
    found = bundles.contents(store)
    assert found["blobs"] == sorted(digest[7:] for digest in before)
    assert (found["runs"], found["tmp"]) == ([], [])


# How much work a stranger's data makes: by counting comparisons and looks, so that no machine is too slow


class Counted(str):
    """Text that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    "refuse_twin",
    [
        lambda names: strict._unique([(name, None) for name in names]),
        lambda names: manifest._refuse_twins("run", names),
    ],
    ids=["JSON", "manifest"],
)
def test_a_name_that_is_there_twice_is_found_by_looking_once_at_each(refuse_twin):
    names = [Counted(number) for number in range(3000)] + [Counted(2999)]
    Counted.compared = 0
    with pytest.raises((ValueError, BundleRefused), match=r"2999.* is there twice"):
        refuse_twin(names)
    assert Counted.compared < 20


class Descendant:
    """A run of a bundle that counts how often its parent is asked for."""

    asked = 0

    def __init__(self, number, parent):
        self.id, self._parent = str(number), str(parent)

    @property
    def parent(self):
        Descendant.asked += 1
        return self._parent


def test_runs_are_put_in_order_by_looking_at_each_a_few_times():
    chain = [Descendant(number, number - 1) for number in range(500)]
    Descendant.asked = 0
    ordered = manifest.parents_first(tuple(reversed(chain)))
    assert Descendant.asked <= 3 * len(chain)
    assert ordered == chain
    chain[0]._parent = "499"
    with pytest.raises(BundleRefused, match="circle"):
        manifest.parents_first(tuple(chain))
