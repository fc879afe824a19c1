"""What holds for a server of one kind of component: the checks of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import torch
from torch import Tensor

from engine.remote.conformance.asking import Check, Said, Server, Wrong, finite, one, refused
from engine.remote.conformance.sent import conditions_of, digest_of_bytes, waves
from engine.remote.contract import (
    CONDITIONS,
    MAX_TOKENS,
    TENSORS,
    Call,
    Denoise,
    Progress,
    Prompt,
    one_line,
    path_of,
)
from engine.remote.wire import encoded, expect
from store.blobs.tensors import Header


def _text_encoder(server: Server) -> list[Check]:
    told = server.fingerprint.components["text_encoder"]
    width = told.facts["text_dim"]

    def header_fits(header: Header) -> None:
        expect(header, {"states": ((told.dtype,), (None, width))})

    async def states(prompt: str) -> Tensor:
        data = msgspec.json.encode(Prompt(prompt=prompt))
        body = await server.tensors("text_encoder", data, header_fits)
        found = body.tensors["states"]
        if len(found) > MAX_TOKENS:
            raise Wrong(f"states has {len(found)} rows, expected at most {MAX_TOKENS}")
        return finite(found, "states")

    async def good() -> None:
        await states("a red circle moves up")
        await states("")

    async def same() -> None:
        first, second = [await states("a red circle moves up") for _ in range(2)]
        if not torch.equal(first, second):
            raise Wrong("one prompt has other states each time")
        other = await states("a blue square moves down")
        rows = min(len(first), len(other))
        if torch.equal(first[:rows], other[:rows]):
            raise Wrong("another prompt has the same states")

    async def rows() -> None:
        short, long = await states("a"), await states("a red circle moves up " * 20)
        if len(short) >= len(long):
            raise Wrong(
                f"one word has {len(short)} rows, a hundred have {len(long)}: expected one for each real token, no "
                "padding"
            )
        await states("a red circle " * 1000)

    return [
        (f"text_encoder: gives finite states {told.dtype} [L,{width}]", good),
        ("text_encoder: gives the same states for the same prompt, others for another", same),
        (f"text_encoder: has a row for each token, {MAX_TOKENS} at most", rows),
    ]


def _image_encoder(server: Server) -> list[Check]:
    told = server.fingerprint.components["image_encoder"]
    rows, width = told.facts["image_tokens"], told.facts["image_dim"]
    pictures = [waves(3, 40, 65), waves(3, 33, 32).flip(1)]

    async def tokens(*given: Tensor) -> Tensor:
        named = {f"picture.{index}": each for index, each in enumerate(given)}
        shape = (len(given) * rows, width)
        body = await server.tensors(
            "image_encoder",
            b"".join(encoded(named)),
            lambda header: expect(header, {"tokens": ((told.dtype,), shape)}),
        )
        return finite(body.tensors["tokens"], "tokens")

    async def same() -> None:
        first, second = [await tokens(pictures[0]) for _ in range(2)]
        if not torch.equal(first, second):
            raise Wrong("one picture has other tokens each time")
        if torch.equal(first, await tokens(pictures[1])):
            raise Wrong("another picture has the same tokens")

    async def in_order() -> None:
        both = (await tokens(*pictures)).float().split(rows)
        alone = [(await tokens(each)).float() for each in pictures]
        for index, found in enumerate(both):
            own, other = ((found - alone[at]).norm() for at in (index, 1 - index))
            if not own < other:
                raise Wrong("the tokens of two pictures are not in the order of the pictures")

    return [
        ("image_encoder: gives the same tokens for the same picture, others for another", same),
        (f"image_encoder: gives finite tokens {told.dtype} [{rows} a picture,{width}]", in_order),
    ]  # fmt: skip


def _denoiser(server: Server) -> list[Check]:
    facts = server.fingerprint.components["denoiser"].facts
    patch = facts.get("patch_size", [1, 1, 1])
    shape = (1, facts["latent_channels"], *[2 * step for step in patch])
    x = waves(*shape)
    takes = [each for each in CONDITIONS if each in facts.get("takes", ["text"])]
    # of each condition two
    conditions = {name: conditions_of(name, facts, shape[2:]) for name in takes}
    digests = {name: [digest_of_bytes(data) for data in both] for name, both in conditions.items()}

    async def ask(count: int = 1, other: Mapping[str, str] | None = None) -> Said:
        branches = {
            f"branch {i}": {name: both[i] for name, both in digests.items()} | dict(other or {})
            for i in range(count)
        }
        calls = [Call(step=0, total=2, sigma=0.9, branch=branch) for branch in branches]
        data = b"".join(
            encoded(
                {"x": x, "timestep": torch.tensor([900.0])},
                Denoise(branches=branches, calls=calls),
            )
        )
        return await server.posted(
            "denoiser", data, lambda header: _velocities(header, count, shape)
        )

    async def put(digest: str, data: bytes) -> Said:
        path = path_of("condition").format(digest=digest)
        headers = {"Content-Type": TENSORS, **server.expects("denoiser")}
        return await server.ask("PUT", path, data, headers)

    async def conditions_once() -> None:
        said = await ask()
        if said.status != 200:  # of an earlier check it may have them
            refusal, expected = (
                refused(said, 409),
                sorted(both[0] for both in digests.values()),
            )
            if sorted(refusal.missing) != expected:
                raise Wrong(f"says that {refusal.missing} are missing, expected {expected}")
        refused(await put(digests[takes[0]][1], conditions[takes[0]][0]), 400)
        for name in takes:
            for digest, data in zip(digests[name], conditions[name], strict=True):
                if (status := (await put(digest, data)).status) != 204:
                    raise Wrong(f"the condition {name} is answered with {status}, expected 204")

    async def velocities() -> None:
        first, second = [one(await ask(2)).tensors for _ in range(2)]
        for name, found in first.items():
            if not torch.equal(finite(found, name), second[name]):
                raise Wrong(f"{name} is another one each time")
        if torch.equal(first["velocity.0"], first["velocity.1"]):
            raise Wrong("other conditions make the same velocity")

    async def mixed_up() -> None:
        for name in takes[1:]:
            refused(await ask(1, {name: digests["text"][0]}), 400)
        if "latents" in takes:
            larger = conditions_of("latents", facts, [2 * size for size in shape[2:]])[0]
            await put(digest_of_bytes(larger), larger)
            refused(await ask(1, {"latents": digest_of_bytes(larger)}), 400)

    return [
        ("denoiser: takes conditions once, by their digests", conditions_once),
        ("denoiser: gives finite velocities F32 of the latents' shape", velocities),
        *([("denoiser: refuses conditions of another name or size", mixed_up)] if takes[1:] else []),
    ]  # fmt: skip


def _vae(server: Server) -> list[Check]:
    facts = server.fingerprint.components["vae"].facts
    frames, rows, columns = facts["latent_stride"]
    size = (1, facts["latent_channels"], 2, 4, 4)
    shape = (1, 3, 1 + frames, 4 * rows, 4 * columns)

    async def encode() -> None:
        video = waves(*shape)
        data = b"".join(encoded({"video": video}))

        async def latents() -> Tensor:
            said = await server.posted(
                "vae",
                data,
                lambda header: expect(header, {"latents": (("F32",), size)}),
                path_of("vae_encode"),
            )
            return finite(one(said).tensors["latents"], "latents")

        if not torch.equal(await latents(), await latents()):
            raise Wrong("one video has other latents each time")

    def part(header: Header) -> None:
        if header.tensors:
            expect(header, {"frames": (("F32",), (1, 3, None, *shape[3:]))})

    async def decode() -> None:
        latents = waves(*size)
        said = await server.posted("vae", b"".join(encoded({"latents": latents})), part)
        if said.status != 200:
            refused(said, 200)
        told = [body.metadata(Progress) for body in said.bodies]
        if failed := next((each.error for each in told if each.error), ""):
            raise Wrong(f"a part tells of an error: {one_line(failed)}")
        if not told or [each.is_last for each in told].index(True) != len(told) - 1:
            raise Wrong("the last part, and only that, must be told as the last")
        found = [body.tensors["frames"] for body in said.bodies if body.tensors]
        count = sum(each.shape[2] for each in found)
        if count != shape[2]:
            raise Wrong(f"gives {count} frames for 2 latents, expected {shape[2]}")
        for each in found:
            if float(finite(each, "frames").abs().max()) > 1.0:
                raise Wrong("frames has numbers outside of -1 to 1")

    return [
        ("vae: encodes videos to finite latents F32", encode),
        ("vae: decodes latents part by part", decode),
    ]


def _velocities(header: Header, count: int, shape: Sequence[int]) -> None:
    expect(header, {f"velocity.{index}": (("F32",), shape) for index in range(count)})


CHECKS: Mapping[str, Callable[[Server], list[Check]]] = {
    "text_encoder": _text_encoder,
    "image_encoder": _image_encoder,
    "denoiser": _denoiser,
    "vae": _vae,
}
"""By kind, the checks of a server that has told of itself."""
