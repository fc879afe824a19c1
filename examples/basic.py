"""Build from a preset, run, save: three lines. Run it with `python examples/basic.py`."""

from engine.api import TextToVideo

pipeline = TextToVideo.from_preset("micro")
video = pipeline("a small yellow star moves up over a dark blue background", seed=1)
print(video.save("star.mp4"))
