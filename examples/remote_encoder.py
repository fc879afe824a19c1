"""Both sides of a component that runs elsewhere: a server in a process of its own, and a run that uses it.

    python examples/remote_encoder.py

On two machines the server is `modiff serve text-encoder --preset micro --host 0.0.0.0 --token-file FILE` on the one,
and `modiff hosts add box URL --token-file FILE` makes it known on the other.
"""

import json
import subprocess
import sys

from engine.api import TextToVideo

server = subprocess.Popen(
    [sys.executable, "-m", "tui.cli", "serve", "text-encoder", "--preset", "micro", "--json"],
    stdout=subprocess.PIPE,
    text=True,
)
try:
    assert server.stdout is not None
    url = json.loads(server.stdout.readline())["url"]
    pipeline = TextToVideo.from_preset(
        "micro",
        [
            "components.text_encoder.name=remote",
            f"components.text_encoder.url={url}",
            "scheduler.steps=4",
        ],
    )
    video = pipeline("a small yellow star moves up over a dark blue background", seed=1)
    print(video.save("star.mp4"))
finally:
    server.terminate()
    server.wait()
