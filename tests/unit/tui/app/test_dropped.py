"""A file that a run wrote, dropped on the app: in Compose what to begin from, or its settings; in Runs its run."""

from __future__ import annotations

import os

import pytest
import torch
from PIL import Image
from textual.events import Paste

from engine.output import media
from engine.output.mark import mark_of
from engine.process.version import installed_version
from presets.encoding import decode_spec, encode_spec
from presets.library.loading import load_preset
from store.store import open_store
from tests.unit.tui.opened_app import notices, play, shown, until
from tui.app.compose.given_view import GivenView
from tui.app.dialogs.ask import Choose, Confirm

LATENTS = f"sha256:{'a1' * 32}"


@pytest.fixture
def video(tmp_path):
    """A video of a run of the store, and its id."""
    path = tmp_path / "a b.mp4"
    with (
        open_store() as store,
        store.register_engine("past", pid=os.getpid(), version=installed_version()),
    ):
        spec = load_preset("micro", values={"seed": 77, "output.path": str(path)})
        run_id = store.enqueue(encode_spec(spec), preset="micro", output=str(path))
        store.lease("past")
        store.finish(run_id, "done")
        store.unregister_engine("past")
        record = store.run(run_id)
        newer = store.enqueue(encode_spec(load_preset("micro")), preset="micro", output="")
        store.request_cancel(newer)
    frames = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    mark = mark_of(record, decode_spec(record.spec_json), LATENTS)
    media.write_video(path, frames, fps=8, comment=mark)
    return path, run_id


def test_in_runs_it_is_the_run(video):
    path, run_id = video

    async def script(pilot):
        runs = pilot.app.screen.runs
        await until(pilot, lambda: runs.current and runs.current.record.id != run_id)
        pilot.app.post_message(Paste(str(path).replace(" ", "\\ ")))
        await until(pilot, lambda: runs.current and runs.current.record.id == run_id)
        with open_store() as store:
            store.remove([run_id])
        pilot.app.post_message(Paste(f"'{path}'"))
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("escape")
        assert pilot.app.current_mode == "runs"
        pilot.app.post_message(Paste(f"'{path}'"))
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: pilot.app.current_mode == "compose")
        form = pilot.app.screen
        await until(pilot, lambda: form.draft and form.draft.edits.get("seed") == "77")
        assert form.draft.preset == "micro"

    play("runs", script)


def test_in_compose_it_is_asked_what_of_it_is_meant(video):
    path, _ = video

    async def script(pilot):
        app, screen = pilot.app, pilot.app.screen
        await until(pilot, lambda: screen.checked)
        app.post_message(Paste(f"file://{str(path).replace(' ', '%20')}"))
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("right", "enter")
        await until(pilot, lambda: screen.draft.edits.get("seed") == "77")
        assert screen.draft.preset == "micro"
        assert "output.path" not in screen.draft.edits  # where this video is
        await screen.go_to("prompt")
        app.post_message(Paste(str(path)))
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("enter")
        await until(pilot, lambda: screen.draft.edits.get("video.path") == str(path))
        assert str(path) not in screen.draft.edits.get("prompt", "")

    play("compose", script)


def test_a_picture_is_what_the_next_video_begins_from(tmp_path):
    """Where the preset takes none, with the one of its family that does; the prompt goes along."""
    path = tmp_path / "a picture.png"
    Image.new("RGB", (64, 48), "red").save(path)

    async def script(pilot):
        app, screen = pilot.app, pilot.app.screen
        await until(pilot, lambda: screen.checked)
        app.post_message(Paste("/gone.png"))
        await until(pilot, lambda: notices(app) == ["/gone.png: no such file"])
        screen.query_one("#prompt").fill("a red circle")
        await until(pilot, lambda: screen.draft.edits.get("prompt"))
        app.post_message(Paste(str(path).replace(" ", "\\ ")))
        await until(pilot, lambda: screen.draft.edits.get("image.path") == str(path))
        assert screen.draft.preset == "micro-i2v"
        assert screen.draft.edits == {"prompt": "a red circle", "image.path": str(path)}
        view = screen.query_one("#given-image", GivenView)
        await until(pilot, lambda: view.display)
        assert "64x48" in shown(screen, "#given-image Static")
        screen._change(screen.draft.typed("task", "flf2v"))
        app.post_message(Paste(str(path)))  # the last one, as there is a first
        await until(pilot, lambda: screen.draft.edits.get("last_image.path") == str(path))
        await screen.go_to("image.path")
        app.post_message(Paste("file:///gone.png"))  # no file, and so text
        await until(pilot, lambda: "gone" in screen.draft.edits["image.path"])

    play("compose", script)


def test_the_last_frame_of_a_run_begins_the_next_one(video):
    path, run_id = video

    async def script(pilot):
        app, runs = pilot.app, pilot.app.screen.runs
        await until(pilot, lambda: runs.rows)
        assert runs.current.record.id != run_id
        assert not app.screen.check_action("continue", ())  # of one that was cancelled
        runs.select(run_id)
        await until(pilot, lambda: runs.current.record.id == run_id)
        await pilot.press("c")
        await until(pilot, lambda: app.current_mode == "compose")
        form = app.screen
        await until(pilot, lambda: form.draft and form.draft.preset == "micro-i2v")
        frame = str(path.with_name("a b-last.png"))
        assert form.draft.edits["image.path"] == frame
        assert form.draft.edits["seed"] == "77"
        await until(
            pilot, lambda: form.query("#given-image") and form.query_one("#given-image").display
        )
        assert shown(form, "#given-image Static").startswith("64x64")

    play("runs", script)
