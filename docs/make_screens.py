"""Makes the README's pictures of the app, from real runs of the micro model: `python docs/make_screens.py`.

A run at its end, the lineage of some branches, and a hunt for a seed as a table and as a gallery.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
SIZE = (120, 36)
WIDE = (144, 36)
# as long as the name of a temporary folder, so that nothing moves
SHOWN_FOLDER = "/home/ada/videos"
STAR = "a small yellow star moves up over a dark blue background"
HUNTED = "a star moves to the right"


async def make(folder: Path) -> None:
    from engine import client
    from engine.process.launch import stop_engine
    from presets.library.loading import load_preset
    from tui.app.app import ModiffApp
    from tui.app.base import start_engine
    from tui.app.preferences import Preferences

    os.chdir(folder)  # where the videos go
    app = ModiffApp(folder / "store", preferences=Preferences(theme="textual-dark"))
    async with app.run_test(size=SIZE) as pilot:

        async def finished(run_id: str) -> str:
            for _ in range(1200):
                if (await app.lab.read(lambda store: store.run(run_id))).is_finished:
                    return run_id
                await pilot.pause(0.1)
            raise TimeoutError(f"run {run_id} did not end")

        async def submit(prompt: str, settings: list[str]) -> str:
            spec = load_preset("micro", settings, values={"prompt": prompt})
            return await finished(await app.lab.change(client.submit, spec, preset="micro"))

        async def branch(run_id: str, at: int, change: str) -> str:
            return await app.lab.change(client.branch, run_id, at=at, overrides=[change])

        await app.lab.engine(start_engine)
        hunted = []
        for seed, scale in itertools.product((1, 2, 3, 4), (2, 4)):
            settings = [f"seed={seed}", f"guidance.scale={scale}"]
            hunted.append(await submit(HUNTED, settings))
            await app.lab.change(lambda store, run=hunted[-1]: store.tag(run, ["hunt"]))
        star = await submit(STAR, ["seed=7"])
        for at, change in (
            (8, "guidance.scale=4"),
            (8, "guidance.scale=1.5"),
            (12, "scheduler.name='euler'"),
        ):
            strong = await finished(await branch(star, at, change))
        await finished(await branch(strong, 16, "prompt='a small yellow star moves down'"))
        for run, stars in zip(hunted[2:6], (3, 2, 5, 4), strict=True):
            await app.lab.change(lambda store, run=run, stars=stars: store.rate(run, stars))
        await app.lab.change(lambda store: store.pin(star))
        await app.lab.change(lambda store: store.tag(star, ["good"]))

        slow = await branch(star, 8, "scheduler.steps=400")
        app.watch_run(slow)
        await finished(slow)
        await pilot.pause(3.0)  # the video in the preview
        save(app, "live.svg", folder)

        await app.action_open("runs")
        await pilot.pause(1.0)
        await pilot.press("t", "home", "down")
        await pilot.pause(3.0)
        save(app, "lineage.svg", folder)
        await pilot.press("t", "slash", *"tag:hunt", "enter")
        await pilot.resize_terminal(*WIDE)
        await pilot.pause(1.0)
        await pilot.press("home", *["down"] * 3)
        await pilot.pause(3.0)
        save(app, "runs.svg", folder)
        await pilot.resize_terminal(*SIZE)
        await pilot.press("G")
        await pilot.pause(3.0)
        save(app, "gallery.svg", folder)
        await app.lab.engine(stop_engine)


def save(app, name: str, folder: Path) -> None:
    picture = app.export_screenshot(title="modiff")
    (IMAGES / name).write_text(picture.replace(str(folder), SHOWN_FOLDER))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MODIFF_CONFIG_DIR"] = f"{scratch}/config"
        asyncio.run(make(Path(scratch)))
