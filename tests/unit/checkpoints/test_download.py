"""Downloads from a mirror on loopback that speaks as the hub does: whole, broken, wrong, refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.checkpoints import download
from engine.checkpoints.download import bytes_left, fetch, look_up, room_problem
from engine.checkpoints.known.catalogue import PublishedFile, Release
from engine.errors import DownloadFailed
from tests.servers.hub_mirror import COMMIT, Mirror, serving

REPOSITORY = "Someone/Small"
NAME = "folder/weights.safetensors"
DATA = bytes(range(256)) * 2000
RELEASE = Release(REPOSITORY, (PublishedFile(NAME, len(DATA)),), "fp32")


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with serving(Mirror(files={(REPOSITORY, NAME): DATA})) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.address)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        # the library waits a second before each new attempt
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        yield made


def get(folder: Path, release: Release = RELEASE) -> list[int]:
    """Loads a release; what was said of its progress."""
    said: list[int] = []
    for remote in look_up(release, folder):
        fetch(remote, on_progress=said.append)
    return said


def halves(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.incomplete") if path.is_file()]


def test_a_file_is_loaded_whole_from_the_commit_that_was_looked_up(mirror, tmp_path):
    said = get(tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert said[-1] == len(DATA)
    assert halves(tmp_path) == []
    assert mirror.gets() == [(NAME, "")]
    assert mirror.asked[-1][1] == f"/{REPOSITORY}/resolve/{COMMIT}/{NAME}"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    mirror.breaks_after[NAME] = [100_000, 50_000]
    get(tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert [name for name, _ in mirror.gets()] == [NAME] * 3
    starts = [int(wanted[6:-1]) for _, wanted in mirror.gets()[1:]]
    assert 0 < starts[0] < starts[1] <= 150_000


def test_what_was_loaded_before_the_end_of_a_process_is_not_loaded_again(
    mirror, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 64 << 10)
    (remote,) = look_up(RELEASE, tmp_path)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(remote, on_progress=stop)
    assert remote.bytes_so_far == 64 << 10
    assert bytes_left([remote]) == len(DATA) - (64 << 10)
    assert not (tmp_path / NAME).exists()
    get(tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert mirror.gets()[-1] == (NAME, f"bytes={64 << 10}-")


def test_a_file_that_is_whole_is_not_loaded_again(mirror, tmp_path):
    get(tmp_path)
    get(tmp_path)
    assert len(mirror.gets()) == 1


@pytest.mark.parametrize("tag", ["", hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()])
def test_wrong_bytes_are_refused_and_removed(mirror, tmp_path, tag):
    """By SHA-256, and the small files that are in Git itself by its hash."""
    if tag:
        mirror.tags[NAME] = tag
        get(tmp_path / "right")
        assert (tmp_path / "right" / NAME).read_bytes() == DATA
    mirror.sent[NAME] = b"x" + DATA[1:]
    with pytest.raises(DownloadFailed, match="is not what the hub tells of"):
        get(tmp_path)
    assert not (tmp_path / NAME).exists()
    assert halves(tmp_path) == []


def test_half_of_something_else_ends_as_wrong_bytes_not_as_a_model(mirror, tmp_path):
    (remote,) = look_up(RELEASE, tmp_path)
    remote.half.parent.mkdir(parents=True)
    remote.half.write_bytes(b"of another file")
    with pytest.raises(DownloadFailed, match="load it again"):
        fetch(remote)
    get(tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA


def test_another_file_of_that_name_is_not_replaced(mirror, tmp_path):
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(b"y" * len(DATA))
    with pytest.raises(DownloadFailed, match="another file; move it away"):
        get(tmp_path)
    assert (tmp_path / NAME).read_bytes() == b"y" * len(DATA)


def test_a_size_that_the_catalogue_does_not_know_is_refused_before_a_byte_is_loaded(
    mirror, tmp_path
):
    mirror.sizes[NAME] = 12
    with pytest.raises(DownloadFailed, match=r"expected 512,000 bytes, .* has 12"):
        get(tmp_path)
    assert mirror.gets() == []


@pytest.mark.parametrize(
    ("refusal", "problem"),
    [
        ((404, "EntryNotFound"), "has no such file"),
        ((404, "RepoNotFound"), "has no such repository"),
        ((401, "GatedRepo"), "its licence is to be accepted first"),
        ((403, "GatedRepo"), "hf auth login"),
        ((500, ""), "answers 500"),
    ],
)
def test_what_the_hub_refuses_is_one_line(mirror, tmp_path, refusal, problem):
    mirror.refusals[NAME] = refusal
    with pytest.raises(DownloadFailed, match=problem) as told:
        get(tmp_path)
    line = str(told.value)
    assert "\n" not in line
    assert mirror.address in line
    assert "hf_secret" not in line


def test_no_hub_at_all(tmp_path, monkeypatch):
    with serving(Mirror()) as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.address)
    with pytest.raises(DownloadFailed, match="does not answer"):
        look_up(RELEASE, tmp_path)


def test_offline_is_respected(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE is set"):
        look_up(RELEASE, tmp_path)
    assert mirror.asked == []


def test_a_server_that_is_no_hub(mirror, tmp_path):
    mirror.tags[NAME] = ""
    with pytest.raises(DownloadFailed, match="does not tell its size, tag and commit"):
        look_up(RELEASE, tmp_path)


def test_the_token_goes_to_the_hub_and_not_to_where_it_sends_us(mirror, tmp_path):
    with serving(Mirror(files=dict(mirror.files))) as elsewhere:
        # of one address, so that by their names the two are strangers
        mirror.content = elsewhere.address.replace("127.0.0.1", "localhost")
        get(tmp_path)
    assert all(has_token for *_, has_token in mirror.asked)
    assert [has_token for *_, has_token in elsewhere.asked] == [False]
    assert (tmp_path / NAME).read_bytes() == DATA


def test_shards_whose_number_nobody_knows_are_asked_of_the_hub(mirror, tmp_path):
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in [*shards, "README.md", "other/diffusion_pytorch_model.bin"]:
        mirror.files["Someone/Shards", name] = name.encode()
    release = Release("Someone/Shards", (PublishedFile("diffusion_pytorch_model*"),), "fp32")
    assert sorted(remote.name for remote in look_up(release, tmp_path)) == shards


def test_a_disk_without_room_is_told_before_a_byte_is_loaded(mirror, tmp_path, monkeypatch):
    remotes = look_up(RELEASE, tmp_path / "not" / "there")
    assert room_problem(remotes, tmp_path / "not" / "there") == ""
    monkeypatch.setattr(download, "free_bytes", lambda folder: 1000)
    assert "512 kB are to be loaded, and its disk has room for 1 kB" in room_problem(
        remotes, tmp_path
    )


def test_two_do_not_load_one_file(mirror, tmp_path):
    (remote,) = look_up(RELEASE, tmp_path)
    said: list[str] = []

    def meanwhile(done: int) -> None:
        with pytest.raises(DownloadFailed) as told:
            fetch(remote)
        said.append(str(told.value))

    fetch(remote, on_progress=meanwhile)
    assert "another process is loading it" in said[0]
