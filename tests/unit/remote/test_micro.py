"""The micro model, served: it speaks the contract, and a run makes the same numbers with it as without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.components import registry
from engine.components.choice import settle
from engine.components.descriptions import Descriptions
from engine.errors import ComponentError
from engine.models.seams import At
from engine.remote.conformance.check import check
from engine.serve.app import Server
from engine.serve.served import loaded
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.index.index import Index, open_index
from store.paths import prepare
from tests.servers.toy_server import answering

KINDS = ("text_encoder", "denoiser", "vae")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Iterator[Index]:
    root = tmp_path_factory.mktemp("store")
    prepare(root)
    with open_index(root) as index:
        yield index


@pytest.fixture(scope="module")
def url(index) -> Iterator[str]:
    with (
        loaded(load_preset("micro"), KINDS, index) as served,
        answering(Server(served, max_body_bytes=64 << 20)) as url,
    ):
        yield url


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.components.providers.remote._ASK_SECONDS", 60.0)


def specs(
    url: str, preset: str = "micro", kinds: tuple[str, ...] = KINDS
) -> tuple[RunSpec, RunSpec]:
    settings = [
        f"components.{kind}.{name}={value}"
        for kind in kinds
        for name, value in (("name", "remote"), ("url", url))
    ]
    return settle(load_preset(preset)), settle(load_preset(preset, settings))


def components(spec: RunSpec, kind: str, index: Index):
    part = getattr(spec.components, kind)
    provider = registry.provider(kind, part.name)
    about = Descriptions(index)(kind, part)
    found = provider.load(part, about)
    use = getattr(provider, "use", None)
    return about, use(found, part) if use else found


def test_it_speaks_the_contract(url):
    assert [each for each in check(url) if each.wrong] == []


def test_all_of_it_is_the_same_there_as_here(url, index):
    torch.set_num_threads(1)
    here, there = specs(url)
    pairs = {kind: [components(spec, kind, index) for spec in (here, there)] for kind in KINDS}
    for (about, _), (told, _) in pairs.values():
        assert told.identity == about.identity
        assert {name: told.facts[name] for name in about.facts} == about.facts
    (_, ours), (_, theirs) = pairs["text_encoder"]
    states = ours.encode("a red circle moves up").cpu()
    assert torch.equal(theirs.encode("a red circle moves up"), states)

    channels = pairs["vae"][0][0].facts["latent_channels"]
    x = torch.randn(1, channels, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    ats = [At(0, 2, 0.9, "positive"), At(0, 2, 0.9, "negative")]
    branches = {"positive": {"text": states}, "negative": {"text": states[:2]}}
    found = []
    for _, denoiser in pairs["denoiser"]:
        with denoiser.begin(branches) as predict:
            found.append(predict(x, torch.tensor([900]), ats))
    for velocity, other in zip(*found, strict=True):
        assert torch.equal(velocity.cpu(), other)
    frames = [torch.cat(list(vae.decode(x)), 2).cpu() for _, vae in pairs["vae"]]
    assert torch.equal(*frames)
    again = [vae.encode(frames[0]).cpu() for _, vae in pairs["vae"]]
    assert torch.equal(*again)


@pytest.mark.parametrize(("preset", "count"), [("micro-i2v", 1), ("micro-flf2v", 2)])
def test_its_siblings_of_pictures_are_the_same_there_as_here(index, preset, count):
    torch.set_num_threads(1)
    kinds = ("image_encoder", "denoiser")
    with (
        loaded(load_preset(preset), kinds, index) as served,
        answering(Server(served, max_body_bytes=64 << 20)) as url,
    ):
        if preset == "micro-flf2v":  # whose conditions have sizes of their own
            assert [each for each in check(url) if each.wrong] == []
        pairs = {
            kind: [components(spec, kind, index) for spec in specs(url, preset, kinds)]
            for kind in kinds
        }
        for (about, _), (told, _) in pairs.values():
            assert told.identity == about.identity
            assert {name: told.facts[name] for name in about.facts} == about.facts
        drawn = torch.Generator().manual_seed(0)
        pictures = [torch.rand(3, 80, 64 + i, generator=drawn) * 2 - 1 for i in range(count)]
        tokens = [encoder.encode(pictures).cpu() for _, encoder in pairs["image_encoder"]]
        assert torch.equal(*tokens)
        x = torch.randn(1, 16, 2, 8, 8, generator=drawn)
        given = torch.randn(20, 2, 8, 8, generator=drawn)
        texts = torch.randn(2, 3, 128, generator=drawn)
        branches = {
            name: {"text": text, "image": tokens[0], "latents": given}
            for name, text in zip(("positive", "negative"), texts, strict=True)
        }
        ats = [At(0, 2, 0.9, name) for name in branches]
        found = []
        for _, denoiser in pairs["denoiser"]:
            with denoiser.begin(branches) as predict:
                found.append(predict(x, torch.tensor([900]), ats))
        for velocity, other in zip(*found, strict=True):
            assert torch.equal(velocity.cpu(), other)


def test_what_is_itself_served_elsewhere_is_not_served(url, index):
    _, there = specs(url)
    with (
        pytest.raises(ComponentError, match="is itself served elsewhere"),
        loaded(there, ("vae",), index),
    ):
        pass
