"""The examples run as they stand, from any folder."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest

from engine.components.providers import umt5
from engine.components.providers.remote import RemoteTextEncoder
from engine.remote.client import Host
from engine.remote.conformance.check import check
from presets.library.loading import load_preset

ROOT = Path(__file__).parents[2]
PROMPT = "a small yellow star moves up over a dark blue background"


def test_basic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "basic.py"), run_name="__main__")
    assert capsys.readouterr().out.strip() == "star.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "star.mp4"))[0] == 17


def test_both_sides_of_a_remote_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runpy.run_path(str(ROOT / "examples" / "remote_encoder.py"), run_name="__main__")
    out, err = capfd.readouterr()
    assert out.strip() == "star.mp4"
    assert '"POST /encode-text HTTP/1.1" 200' in err


WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "engine", "safetensors", "transformers"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_server_without_torch_speaks_the_contract(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    example = ROOT / "examples" / "numpy_encoder.py"
    assert len(example.read_text().splitlines()) < 150
    server = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TORCH, str(example)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            assert not [each for each in check(url) if each.wrong]
            [told] = Host(url).fingerprint(60).components.values()
            remote = RemoteTextEncoder("text_encoder", Host(url), told)
            spec = load_preset("micro", ["components.text_encoder.dtype=fp32"])
            here = umt5.load(spec.components.text_encoder)
            for prompt in (PROMPT, "", "a red circle moves up " * 200):
                theirs, ours = remote.encode(prompt), here.encode(prompt)
                assert theirs.shape == ours.shape
                assert float((theirs - ours.cpu()).abs().max()) < 2e-5
        finally:
            server.terminate()
    assert "Traceback" not in capfd.readouterr().err
