"""Runs whose components are served by another process: the same bytes as here, and what the store makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.components.choice import check
from engine.components.descriptions import Descriptions
from engine.components.providers import remote
from engine.errors import ComponentError
from presets.encoding import encode_spec
from presets.library.loading import override
from store.index.index import open_index
from store.lineage.events import CallAnswered, ChunkDecoded, PlanMade, StepFinished
from store.lineage.records import Segment
from tests.integration.remote.conftest import Lab, error_of, spec_of
from tests.integration.remote.serving import ALL, Servers, free_port
from tui.describe.plan import planned


@pytest.mark.parametrize("kinds", [("text_encoder",), ("denoiser",), ("vae",), ALL], ids="+".join)
def test_a_run_elsewhere_gives_the_bytes_of_one_here(
    make_lab: Callable[[], Lab], everything: str, kinds: tuple[str, ...]
) -> None:
    here, there = make_lab(), make_lab()
    local = spec_of({}, seed=1)
    expected = here.make(local)
    found = there.make(spec_of(dict.fromkeys(kinds, everything), seed=1))
    assert there.files(found) == here.files(expected)
    assert {call.component for call in there.told(CallAnswered)} == set(kinds)
    # under the same keys, so that each finds what the other made
    keys = [
        {link.key for link in lab.store.links_of(run)}
        for lab, run in ((here, expected), (there, found))
    ]
    assert keys[0] == keys[1]
    there.make(local)
    (plan,) = there.told(PlanMade)
    assert set(plan.stages.values()) <= {"stored", "skip"}


def test_progress_of_a_decoding_elsewhere_is_told(lab: Lab, everything: str) -> None:
    lab.make(spec_of({"vae": everything}, "components.vae.chunk_frames=0"))
    assert lab.told(ChunkDecoded)


def test_conditions_go_over_the_wire_once(lab: Lab, everything: str) -> None:
    settings = ('prompt="a large red circle moves left"', "guidance.scale=1")
    lab.make(spec_of({"denoiser": everything}, *settings))
    assert len(lab.told(CallAnswered)) == 4 + 1
    lab.make(spec_of({"denoiser": everything}, *settings))
    assert len(lab.told(CallAnswered)) == 4


def test_what_is_stored_needs_no_server(lab: Lab, servers: Servers, root: Path) -> None:
    url = servers.start(*ALL, root=root)
    spec = spec_of(dict.fromkeys(ALL, url))
    first = lab.make(spec)
    servers.kill(url)
    again = lab.make(spec)
    assert lab.files(again) == lab.files(first)
    with open_index(lab.store.root) as index:  # and can be planned in another process
        about = check(spec, Descriptions(index))
    assert about["denoiser"].facts["seams"] == ["step", "guide", "model"]
    other = override(spec, ['prompt="another one"', "components.text_encoder.options.retries=0"])
    told = error_of(lambda: lab.make(other))
    assert told.startswith(f"components.text_encoder: {url} does not answer (")
    assert "start it there" in told
    assert "\n" not in told


def test_a_server_that_nobody_has_met_is_told(lab: Lab) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    told = error_of(lambda: lab.make(spec_of({"vae": url})))
    assert told.startswith(f"components.vae: {url} does not answer (")


def test_a_server_without_the_kind_is_told(lab: Lab, servers: Servers, root: Path) -> None:
    url = servers.start("vae", root=root)
    told = error_of(lambda: lab.make(spec_of({"denoiser": url})))
    assert told == f"components.denoiser: {url} serves vae, not a denoiser"
    servers.kill(url)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["components.vae.name=remote"],
            "components.vae.url: a remote component needs the address",
        ),
        (
            ["components.vae.url=http://127.0.0.1:1"],
            "components.vae.url: got http://127.0.0.1:1, but wan-vae runs in this process",
        ),
        (
            ["components.vae.name=remote", "components.vae.url=ftp://there"],
            "components.vae.url: got 'ftp://there', expected an address like",
        ),
        (
            ["components.vae.name=remote", "components.vae.url=http://me:secret@there:1"],
            "components.vae.url: got an address with a name or password",
        ),
    ],
)
def test_a_bad_address_is_refused(lab: Lab, overrides: list[str], told: str) -> None:
    spec = spec_of({}, *overrides)
    with open_index(lab.store.root) as index:
        assert error_of(lambda: check(spec, Descriptions(index))).startswith(told)


def test_an_extension_inside_of_a_denoiser_elsewhere_is_refused(lab: Lab, everything: str) -> None:
    spec = spec_of({"denoiser": everything}, 'extensions=[{name="teacache"}]')
    with (
        open_index(lab.store.root) as index,
        pytest.raises(ComponentError, match="works inside the denoiser"),
    ):
        check(spec, Descriptions(index))


def test_two_denoisers_take_turns_in_one_run(
    make_lab: Callable[[], Lab], servers: Servers, root: Path, everything: str
) -> None:
    other = servers.start("denoiser", root=root)
    here, there = make_lab(), make_lab()
    expected = here.make(spec_of({}, seed=3))
    first = spec_of({"denoiser": everything}, seed=3)
    second = spec_of({"denoiser": other}, seed=3)
    found = there.make(second, (Segment(2, encode_spec(first)),))
    assert there.files(found) == here.files(expected)
    latents_bytes = 4 * 16 * 2 * 4 * 4
    velocities = [c.host for c in there.told(CallAnswered) if c.received_bytes > latents_bytes]
    assert velocities == [everything, everything, other, other]
    servers.kill(other)


def test_a_place_is_in_no_key(everything: str) -> None:
    spec = spec_of({"vae": everything})
    moved = override(
        spec, ["components.vae.url=http://10.0.0.1:1", "components.vae.options.timeout=5"]
    )
    assert msgspec.structs.replace(
        spec.components.vae, url="", options={}
    ) == msgspec.structs.replace(moved.components.vae, url="", options={})


def test_a_server_that_is_away_is_told_before_anything_is_computed(
    lab: Lab, servers: Servers, root: Path
) -> None:
    url = servers.start("vae", root=root)
    spec = spec_of({"vae": url})
    lab.make(spec)
    assert planned(lab.store, override(spec, ["seed=1"])).warnings == ()
    servers.kill(url)
    other = override(spec, ["seed=2"])
    told = error_of(lambda: lab.make(other))
    assert told.startswith(f"components.vae: {url} does not answer (")
    assert not lab.told(StepFinished)
    remote._recent.clear()
    (warning,) = planned(lab.store, other).warnings
    assert warning == told
