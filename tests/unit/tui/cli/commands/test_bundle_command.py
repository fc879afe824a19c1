"""`modiff store export` and `import`: what is said, the exit codes, and what is not imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from store.blobs import blobs
from store.bundle.exporting import STEPS as EXPORT_STEPS
from store.store import open_store
from tests.imported import imported_by
from tests.stores import bundles
from tests.stores.bundles import forgery, make_run, manifest_of
from tui.cli.commands.store.bundle import STEPS
from tui.cli.main import main

ROOT = Path(__file__).resolve().parents[5]


@pytest.fixture
def run_id():
    with open_store() as store:
        return make_run(store)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "star.modiff"


@pytest.fixture
def modiff(capsys):
    def call(*arguments):
        code = main(["store", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """From here on the store is an empty one."""

    def move(name="elsewhere"):
        monkeypatch.setenv("MODIFF_STORE", str(tmp_path / name))

    return move


def test_the_steps_are_those_of_the_exporter():
    assert STEPS == EXPORT_STEPS


def test_there_and_back(modiff, run_id, path, elsewhere):
    code, out, err = modiff("export", run_id[:6], "--output", path)
    assert (code, out) == (0, "")
    assert str(path) in err
    assert "1 run, 9 blobs" in err
    elsewhere()
    code, out, err = modiff("import", path)
    assert (code, out) == (0, "")
    assert f"run {run_id} is imported" in err
    assert "8 blobs new here" in err
    with open_store() as store:
        assert store.run(run_id).origin == "import"
        assert store.find_links([link.key for link in store.links_of(run_id)]) == {}
    code, _, err = modiff("import", path, "--trust")
    assert code == 0
    assert f"run {run_id} is here already" in err
    with open_store() as store:
        assert len(store.find_links([link.key for link in store.links_of(run_id)])) == 7


def test_json(modiff, run_id, path, elsewhere):
    code, out, _ = modiff("export", run_id, "--output", path, "--json")
    told = json.loads(out)
    assert code == 0
    assert told == {
        "output": str(path),
        "bytes": path.stat().st_size,
        "runs": [run_id],
        "blobs": 9,
        "not_kept": 0,
        "left_out": [],
    }
    elsewhere()
    code, out, err = modiff("import", path, "--trust", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["runs"] == [{"run": run_id, "bundled_run": run_id, "new": True}]
    assert (told["new_blobs"], told["new_links"], told["differing_links"]) == (9, 7, 0)
    assert told["new_bytes"] > 0


def test_only_the_output_goes_along_when_no_steps_are_wanted(modiff, run_id, path):
    assert modiff("export", run_id, "--output", path, "--steps", "none")[0] == 0
    assert len(manifest_of(path)["blobs"]) == 1


def test_the_lineage_goes_along(modiff, run_id, path):
    with open_store() as store:
        child = make_run(store, seed=1, parent=run_id)
    assert modiff("export", child, "--lineage", "--output", path)[0] == 0
    assert {run["id"] for run in manifest_of(path)["runs"]} == {run_id, child}


def test_what_is_missing_is_told(modiff, run_id, path):
    with open_store() as store:
        blobs.blob_path(store.root, store.run(run_id).latents).unlink()
    code, out, err = modiff("export", run_id, "--output", path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"the latents of run {run_id} cannot be exported" in err
    assert "--allow-missing" in err
    assert not path.exists()
    code, _, err = modiff("export", run_id, "--output", path, "--allow-missing")
    assert code == 0
    assert f"the latents of run {run_id} is left out" in err


def test_nothing_is_overwritten(modiff, run_id, path):
    path.write_text("mine")
    code, _, err = modiff("export", run_id, "--output", path)
    assert code == 2
    assert "is there already" in err
    assert path.read_text() == "mine"


def test_a_target_in_the_wrong_place_is_bad_input(modiff, run_id, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("none/b.modiff", "file/b.modiff", "/proc/b.modiff"):
        code, out, err = modiff("export", run_id, "--output", tmp_path / name)
        assert (code, out, err.count("\n")) == (2, "", 1), name
        assert str(Path(tmp_path / name).parent) in err


def test_what_trust_does_is_said_also_of_runs_that_are_here(modiff, run_id, path, elsewhere):
    modiff("export", run_id, "--output", path)
    elsewhere()
    modiff("import", path)
    trusted = [modiff("import", path, "--trust")[2].splitlines()[-1] for _ in range(2)]
    assert trusted == [
        "other runs reuse 7 results of this bundle from now on",
        "`--trust` changed nothing: the bundle holds no result that is new here",
    ]


@pytest.mark.parametrize(
    "arguments", [("nothing1", "--output", "x"), ("--output", "x"), ("aaaaaaaaaa",)], ids=" ".join
)
def test_arguments_that_will_not_do(modiff, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert modiff("export", *arguments)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_hostile_bundle_is_refused_in_one_line(modiff, run_id, path, elsewhere, tmp_path):
    modiff("export", run_id, "--output", path)
    forged = forgery(path)
    evil = b"blobs/../../\x1b[2J\nevil"
    forged.parts.append(bundles.Part(evil, b"evil"))
    hostile = tmp_path / "hostile\x1b[31m.modiff"
    hostile.write_bytes(bytes(forged))
    elsewhere()
    code, out, err = modiff("import", hostile)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.strip().isprintable()
    assert "was refused: it has the member" in err
    with open_store() as store:
        assert not any(bundles.contents(store).values())


def test_a_spec_that_is_not_valid_is_refused(modiff, run_id, path, elsewhere):
    modiff("export", run_id, "--output", path)
    forged = forgery(path)
    manifest = forged.manifest
    spec = json.loads(manifest["runs"][0]["spec"])
    manifest["runs"][0]["spec"] = json.dumps(spec | {"width": 7})
    forged.manifest = manifest
    path.write_bytes(bytes(forged))
    elsewhere()
    code, _, err = modiff("import", path)
    assert code == 2
    assert "a spec is not valid: width" in err


def test_a_larger_file_needs_a_larger_limit(modiff, run_id, path, elsewhere):
    modiff("export", run_id, "--output", path)
    elsewhere()
    code, _, err = modiff("import", path, "--max-size", "1kB")
    assert code == 2
    assert "--max-size" in err
    assert modiff("import", path, "--max-size", "1MB")[0] == 0


def test_a_file_that_is_not_there(modiff, tmp_path):
    code, _, err = modiff("import", tmp_path / "none.modiff")
    assert code == 2
    assert "cannot be opened (No such file or directory)" in err


def test_a_run_of_the_same_id_is_told(modiff, run_id, path, elsewhere):
    modiff("export", run_id, "--output", path)
    elsewhere()
    forged = forgery(path)
    manifest = forged.manifest
    manifest["runs"][0]["created_ns"] += 1
    forged.manifest = manifest
    other = path.with_name("other.modiff")
    other.write_bytes(bytes(forged))
    assert modiff("import", path)[0] == 0
    code, _, err = modiff("import", other)
    assert code == 0
    assert f"run {run_id} is another one here; it is now " in err
    new_id = err.split("it is now ")[1].split()[0]
    with open_store() as store:
        assert store.run(new_id).created_ns == store.run(run_id).created_ns + 1


def test_neither_command_imports_torch(run_id, path, tmp_path):
    found = imported_by(("store", "export", run_id, "--output", path), ("store", "import", path))
    for command, modules in found.items():
        assert not modules & {"torch", "numpy", "textual", "transformers"}, command
