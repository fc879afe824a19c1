"""Tensors over the wire: one safetensors body, checked by its header before memory is taken for it.

The header's length, its JSON and every offset are checked first, then what whoever reads expects of names, dtypes and
shapes; only then is the rest read, into memory of that very size.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import torch
from torch import Tensor

from engine.remote.contract import MAX_HEADER_BYTES
from store.blobs.tensors import Header, encoded_parts, read_header, unpack
from store.errors import StoreError

_METADATA = "modiff"
NAMES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

S = TypeVar("S", bound=msgspec.Struct)


class BadBody(ValueError):
    """A body that is not what it was to be: one line. status: of HTTP, for a server that was sent it."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Body:
    """A body that was read. num_bytes: of all of it."""

    tensors: Mapping[str, Tensor]
    header: Header
    num_bytes: int

    def metadata(self, struct: type[S]) -> S:
        """Raises BadBody."""
        return metadata_of(self.header, struct)


def encoded(
    tensors: Mapping[str, Tensor], metadata: msgspec.Struct | None = None
) -> list[memoryview]:
    """The parts of a body, the tensors' own memory where they are contiguous and on the CPU."""
    text = None if metadata is None else {_METADATA: msgspec.json.encode(metadata).decode()}
    return encoded_parts(tensors, text)


def metadata_of(header: Header, struct: type[S]) -> S:
    """What a body says beside its tensors. Raises BadBody."""
    try:
        return msgspec.json.decode(header.metadata.get(_METADATA, "{}"), type=struct)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"the metadata {_METADATA} of the body: {error}") from None


def expect(
    header: Header, wanted: Mapping[str, tuple[Sequence[str], Sequence[int | None]]]
) -> None:
    """Raises BadBody where a body has other tensors than these: name -> dtypes that it may have, shape with None for
    any size."""
    if header.tensors.keys() != wanted.keys():
        raise BadBody(
            f"the body has the tensors {_listed(header.tensors)}, expected {_listed(wanted)}"
        )
    for name, (dtypes, shape) in wanted.items():
        entry = header.tensors[name]
        if entry.dtype not in dtypes:
            raise BadBody(f"{name} has dtype {entry.dtype}, expected {' or '.join(dtypes)}")
        fits = len(entry.shape) == len(shape) and all(
            size > 0 and size == (size if want is None else want)
            for size, want in zip(entry.shape, shape, strict=True)
        )
        if not fits:
            sizes = ", ".join("any" if want is None else str(want) for want in shape)
            raise BadBody(f"{name} has shape {entry.shape}, expected [{sizes}]")


class Reader:
    """Bodies one after another out of chunks of bytes. max_bytes: of one body."""

    def __init__(self, chunks: AsyncIterator[bytes], max_bytes: int) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._max_bytes = max_bytes

    async def body(
        self, check: Callable[[Header], None], num_bytes: int | None = None
    ) -> Body | None:
        """The next body; None at the end. check: raises BadBody by the header. num_bytes: as it was announced, of one
        that nothing follows. Raises BadBody, and what the chunks raise."""
        first = await self._read(8, may_end=True)
        if not first:
            return None
        length = int.from_bytes(first, "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise BadBody(
                f"not a safetensors body: a header of {length} bytes, expected 2 to {MAX_HEADER_BYTES}"
            )
        try:
            header = read_header(await self._read(length))
        except StoreError as error:
            raise BadBody(str(error)) from None
        total = 8 + length + header.num_bytes
        if total > self._max_bytes:
            raise BadBody(f"a body of {total} bytes, expected at most {self._max_bytes}", 413)
        if num_bytes is not None and num_bytes != total:
            raise BadBody(f"a body of {num_bytes} bytes, but its header tells of {total}")
        check(header)
        data = _memory(header.num_bytes)
        await self._fill(data)
        return Body(unpack(header, data, shared=True), header, total)

    async def ended(self) -> None:
        """Raises BadBody where something follows."""
        if len(self._rest) or await self._next():
            raise BadBody("bytes follow the body")

    async def _read(self, count: int, *, may_end: bool = False) -> bytes:
        data = bytearray(count)
        read = await self._fill(memoryview(data), may_end=may_end)
        return bytes(data) if read else b""

    async def _fill(self, into: memoryview, *, may_end: bool = False) -> int:
        done = 0
        while done < len(into):
            if not len(self._rest) and not await self._next():
                if may_end and not done:
                    return 0
                raise BadBody(f"the body ends {len(into) - done} bytes too early")
            count = min(len(self._rest), len(into) - done)
            into[done : done + count] = self._rest[:count]
            self._rest = self._rest[count:]
            done += count
        return done

    async def _next(self) -> bool:
        async for chunk in self._chunks:
            if chunk:
                self._rest = memoryview(chunk)
                return True
        return False


def _memory(num_bytes: int) -> memoryview:
    """That nobody fills with zeros first."""
    return torch.empty(num_bytes, dtype=torch.uint8).numpy().data


def _listed(names: Mapping[str, object]) -> str:
    shown = [name[:40] for name in sorted(names)[:8]]
    return ", ".join(shown) + (", ..." if len(names) > 8 else "") or "none"
