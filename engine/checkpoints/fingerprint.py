"""What the files of a component are, without reading all of the weights. Torch-free.

A sample sees any tensor that was trained, merged or converted on, not a single flipped byte between its three
places; for that, engine.checkpoints.digests adds the digest of the whole file once it is known.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from engine.checkpoints.formats.reading import opened
from engine.checkpoints.formats.table import TensorInfo, WeightFile
from engine.checkpoints.formats.weight_file import read_weight_file
from engine.errors import CheckpointError

SAMPLE_BYTES = 4096


def fingerprint(files: Sequence[Path]) -> str:
    """`wf1:<hex>` of the files that a component is made of; see `sampled`."""
    return sampled(files)


def sampled(files: Sequence[WeightFile | Path]) -> str:
    """`wf1:<hex>` of files in their order: of weights a sample, of any other (a tokenizer, a configuration) all.

    Paths, file names and times do not count; how the tensors are spread over files does.
    28 GB take about a third of a second. Raises CheckpointError where a file cannot be read or is damaged.
    """
    return combined([sample_of(file) for file in files])


def combined(samples: Sequence[str]) -> str:
    """The fingerprint of files whose samples are known, in the files' order."""
    return f"wf1:{hashlib.sha256(' '.join(samples).encode()).hexdigest()}"


def sample_of(file: WeightFile | Path) -> str:
    """64 hex digits for one file: of JSON and of a SentencePiece model its SHA-256, of weights that of their names,
    dtypes, shapes, metadata and of 4 KiB from the start, the middle and the end of each tensor, whatever their order
    in the file."""
    path = file if isinstance(file, Path) else file.path
    try:
        if isinstance(file, Path):
            if file.suffix == ".model" or _is_json(file):
                with opened(file, "a model's file") as (text, _):
                    return hashlib.file_digest(text, "sha256").hexdigest()
            file = read_weight_file(file)
        return _sample(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _is_json(path: Path) -> bool:
    # the length that a safetensors file starts with may look like a brace, but has zeros behind it
    with opened(path, "a model's file") as (file, _):
        start = file.read(8)
    return start.lstrip().startswith((b"{", b"[")) and b"\0" not in start


def _sample(file: WeightFile) -> str:
    samples = {}
    descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fadvise"):  # else each 4 KiB brings in 128 KiB
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for name, tensor in sorted(file.tensors.items(), key=lambda item: item[1].start):
            samples[name] = hashlib.sha256(_places(descriptor, tensor)).digest()
    finally:
        os.close(descriptor)
    digest = hashlib.sha256(ascii(sorted(file.metadata.items())).encode())
    for name, tensor in sorted(file.tensors.items()):
        digest.update(ascii((name, tensor.dtype, tensor.shape, tensor.strides)).encode())
        digest.update(samples[name])
    return digest.hexdigest()


def _places(descriptor: int, tensor: TensorInfo) -> bytes:
    num_bytes = tensor.stop - tensor.start
    if num_bytes <= 3 * SAMPLE_BYTES:
        return os.pread(descriptor, num_bytes, tensor.start)
    starts = (0, (num_bytes - SAMPLE_BYTES) // 2, num_bytes - SAMPLE_BYTES)
    return b"".join(os.pread(descriptor, SAMPLE_BYTES, tensor.start + start) for start in starts)
