"""What is asked before a run's action: the path of a new file."""

from __future__ import annotations

from tui.app.desktop import taken


def test_a_path_of_a_new_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.mp4").touch()
    assert taken("") == taken(" ") == ""
    assert taken("new.mp4") == taken(f"{tmp_path}/new.mp4") == ""
    assert taken("there.mp4") == "there.mp4 is there already"
    assert taken("gone/new.mp4") == f"there is no folder {tmp_path}/gone"
    assert taken("there.mp4/new.mp4") == f"there is no folder {tmp_path}/there.mp4"
