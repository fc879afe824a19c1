"""Tensors as canonical bytes: deterministic, exact, readable by safetensors, strict on reading."""

from __future__ import annotations

import hashlib
import json

import pytest
import safetensors.torch
import torch

from store.blobs import tensors as codec
from store.blobs.tensors import decode_tensors, encode_tensors
from store.errors import StoreError

GENERATOR = torch.Generator().manual_seed(7)

EXAMPLES = {
    "fp32": torch.randn(2, 3, generator=GENERATOR),
    "fp64": torch.randn(3, generator=GENERATOR, dtype=torch.float64),
    "bf16": torch.randn(5, generator=GENERATOR).bfloat16(),
    "fp16": torch.randn(5, generator=GENERATOR).half(),
    "fp8_e4m3": torch.randn(5, generator=GENERATOR).to(torch.float8_e4m3fn),
    "fp8_e5m2": torch.randn(5, generator=GENERATOR).to(torch.float8_e5m2),
    "int64": torch.arange(-3, 4),
    "int32": torch.arange(3, dtype=torch.int32),
    "int16": torch.arange(3, dtype=torch.int16),
    "int8": torch.arange(-3, 4, dtype=torch.int8),
    "uint8": torch.arange(7, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "complex": torch.randn(3, generator=GENERATOR, dtype=torch.complex64),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
}


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor


def assert_same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(bits(found.contiguous()), bits(expected.contiguous()))


def encoded_with(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_all_dtypes_and_shapes_come_back_bit_for_bit():
    decoded = decode_tensors(encode_tensors(EXAMPLES))
    assert decoded.keys() == EXAMPLES.keys()
    for name, tensor in EXAMPLES.items():
        assert_same(decoded[name], tensor)


def test_safetensors_reads_the_same():
    data = encode_tensors(EXAMPLES)
    read = safetensors.torch.load(data)
    assert read.keys() == EXAMPLES.keys()
    for name in set(EXAMPLES) - {"complex"}:
        assert_same(read[name], EXAMPLES[name])


def test_what_safetensors_wrote_is_read():
    plain = {name: EXAMPLES[name] for name in ("fp32", "bf16", "int64", "scalar")}
    decoded = decode_tensors(safetensors.torch.save(plain, metadata={"a": "b"}))
    for name, tensor in plain.items():
        assert_same(decoded[name], tensor)


def test_the_bytes_do_not_depend_on_order_or_layout():
    square = torch.arange(12.0).reshape(3, 4)
    first = encode_tensors({"b": square.t(), "a": square[:, 1:3]})
    second = encode_tensors({"a": square[:, 1:3].clone(), "b": square.t().contiguous()})
    assert first == second


def test_the_bytes_are_the_canonical_ones():
    data = encode_tensors({"z": torch.tensor([1, 2], dtype=torch.uint8), "a": torch.tensor(1.0)})
    header = (
        b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        b'"z":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}'
    )
    header += b" " * (-len(header) % 8)
    assert data == len(header).to_bytes(8, "little") + header + b"\x00\x00\x80\x3f\x01\x02"


def test_a_known_digest_never_changes():
    latents = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4) / 7
    digest = hashlib.sha256(encode_tensors({"latents": latents})).hexdigest()
    assert digest == "35bb346632b66eb53ba318c5efa83f00d898761d2bb14ee5645c917ecb0ea718"


def test_decoded_tensors_have_memory_of_their_own():
    data = bytearray(encode_tensors({"a": torch.ones(4), "b": torch.ones(4)}))
    decoded = decode_tensors(data)
    decoded["a"].zero_()
    data[-16:] = bytes(16)
    assert torch.equal(decoded["b"], torch.ones(4))


def test_unaligned_data_is_read():
    data = encode_tensors({"a": torch.ones(3, dtype=torch.uint8), "b": torch.tensor([1.5, 2.5])})
    assert torch.equal(decode_tensors(data)["b"] * 2, torch.tensor([3.0, 5.0]))


def test_gradients_and_conjugate_views_are_stored_as_their_values():
    weight = torch.ones(2, requires_grad=True)
    conjugate = torch.tensor([1 + 2j], dtype=torch.complex64).conj()
    decoded = decode_tensors(encode_tensors({"w": weight, "c": conjugate}))
    assert torch.equal(decoded["w"], torch.ones(2))
    assert decoded["c"].tolist() == [1 - 2j]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"__metadata__": torch.ones(1)}, "__metadata__"),
        ({"c": torch.ones(1, dtype=torch.complex128)}, "complex128"),
    ],
)
def test_what_cannot_be_stored_is_refused(tensors, message):
    with pytest.raises(StoreError, match=message):
        encode_tensors(tensors)


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


HOSTILE = {
    "empty file": b"",
    "seven bytes": b"1234567",
    "huge header": (1 << 63).to_bytes(8, "little") + b"{}",
    "header beyond the end": (100).to_bytes(8, "little") + b"{}",
    "header over the limit": encoded_with(b"{}" + b" " * codec.MAX_HEADER_BYTES),
    "no JSON": encoded_with(b"{{{{"),
    "deep JSON": encoded_with(b"[" * 100_000),
    "a list": encoded_with(b"[1, 2]"),
    "invalid UTF-8": encoded_with(b'{"\xff": {}}'),
    "unknown field": encoded_with({"a": entry(extra=1)}, bytes(4)),
    "unknown dtype": encoded_with({"a": entry(dtype="F128")}, bytes(4)),
    "negative size": encoded_with({"a": entry(shape=(-1,))}, bytes(4)),
    "overflowing shape": encoded_with({"a": entry(shape=(2**62, 2**62))}, bytes(4)),
    "many dimensions": encoded_with({"a": entry(shape=(1,) * 200)}, bytes(4)),
    "negative offset": encoded_with({"a": entry(offsets=(-4, 0))}, bytes(4)),
    "data beyond the end": encoded_with({"a": entry(shape=(2,), offsets=(0, 8))}, bytes(4)),
    "trailing data": encoded_with({"a": entry()}, bytes(5)),
    "hole": encoded_with({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
    "overlap": encoded_with({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)),
    "too many tensors": encoded_with(
        {str(i): entry("U8", (0,), (0, 0)) for i in range(codec.MAX_TENSORS + 1)}
    ),
    "a float offset": encoded_with(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1.5]}}', b"xx"
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_malformed_file_is_refused_in_one_line(data):
    with pytest.raises(StoreError) as caught:
        decode_tensors(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
