"""Bodies of tensors: whatever is written is read again, however it comes; whatever else comes is refused in one line,
and takes no memory before it was looked at."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.remote import wire
from engine.remote.contract import Progress
from engine.remote.wire import BadBody, Body, Reader, encoded

MAX_BYTES = 10_000
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64)


async def _chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read(data: bytes, size: int = 1 << 16, num_bytes: int | None = None) -> list[Body]:
    async def all_of_it() -> list[Body]:
        reader = Reader(_chunks(data, size), MAX_BYTES)
        found = []
        while (body := await reader.body(lambda header: None, num_bytes)) is not None:
            found.append(body)
        return found

    return asyncio.run(all_of_it())


@st.composite
def tensors(draw: Any) -> dict[str, Tensor]:
    names = draw(
        st.lists(st.text(min_size=1, max_size=8).filter(_is_name), unique=True, max_size=4)
    )
    found = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        dtype = draw(st.sampled_from(DTYPES))
        found[name] = torch.arange(torch.Size(shape).numel()).to(dtype).reshape(shape)
    return found


def _is_name(text: str) -> bool:
    return text.isprintable() and text != "__metadata__"


@settings(max_examples=60, deadline=None)
@given(st.lists(tensors(), max_size=3), st.integers(1, 5000))
def test_what_is_written_is_read_again(bodies, size):
    data = b"".join(b"".join(encoded(each, Progress(done=i))) for i, each in enumerate(bodies))
    found = read(data, size)
    assert [each.metadata(Progress).done for each in found] == list(range(len(bodies)))
    assert sum(each.num_bytes for each in found) == len(data)
    for body, wanted in zip(found, bodies, strict=True):
        assert body.tensors.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert body.tensors[name].dtype == tensor.dtype
            assert torch.equal(body.tensors[name], tensor)


entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "I64", "BOOL", "F31", ""]) | st.integers(),
        "shape": st.lists(st.integers(-1, 5) | st.sampled_from([2**31, 2**63, 10**30]), max_size=9),
        "data_offsets": st.tuples(st.integers(-8, 64), st.integers(-8, 64) | st.just(2**62)),
    }
)
headers = st.dictionaries(st.text(max_size=4), entries, max_size=3) | st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


@settings(max_examples=150, deadline=None)
@given(headers, st.binary(max_size=80), st.integers(0, 1 << 20), st.booleans())
def test_what_is_no_body_takes_no_memory(header, data, length, is_right):
    taken, refusals = [], []
    take = wire._memory
    text = json.dumps(header).encode()
    size = (len(text) if is_right else length).to_bytes(8, "little")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_memory", lambda num_bytes: taken.append(num_bytes) or take(num_bytes))
        try:
            read(size + text + data)
        except BadBody as error:
            refusals.append(str(error))
    assert not any("\n" in line for line in refusals)
    assert all(num_bytes <= MAX_BYTES for num_bytes in taken)


def test_a_body_that_says_that_it_is_large_is_not_waited_for():
    entry = {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}
    text = json.dumps({"x": entry}).encode()
    with pytest.raises(BadBody, match=f"expected at most {MAX_BYTES}") as caught:
        read(len(text).to_bytes(8, "little") + text)
    assert caught.value.status == 413


def test_metadata_that_is_none():
    data = b"".join(wire.encoded_parts({}, {"modiff": '{"done": -1}'}))
    with pytest.raises(BadBody, match="the metadata modiff of the body"):
        read(data)[0].metadata(Progress)
