"""The names, shapes and storages in the `data.pkl` of a torch archive. Torch-free; nothing is unpickled.

The opcodes are walked with a stack of plain data: the few classes that torch.save writes for tensors are known
by name and stand for records of ours, and any other ends the walk. Nothing is imported, called or built by the
names in the file. The work is linear in the opcodes, whose number is limited.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.checkpoints.formats.reading import shortened
from engine.checkpoints.formats.table import MAX_DIMENSIONS

# 30 or 40 opcodes make a tensor; the largest published file has 1,331. A tenth of a second at most.
MAX_OPCODES = 80_000
_VALUES = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "bool": "BOOL",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
_STORAGES = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}  # fmt: skip
_UNTYPED = (
    "torch.storage.UntypedStorage"  # for dtypes that came after the storage classes, such as fp8
)
_ORDERED_DICT = "collections.OrderedDict"
_SIZE = "torch.Size"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_TENSOR_WITH_DTYPE = "torch._utils._rebuild_tensor_v3"
_PARAMETER = "torch._utils._rebuild_parameter"
_KNOWN = (
    {
        _UNTYPED,
        "torch.UntypedStorage",
        _ORDERED_DICT,
        _SIZE,
        _TENSOR,
        _TENSOR_WITH_DTYPE,
        _PARAMETER,
    }
    | _STORAGES.keys()
    | {f"torch.{name}" for name in _DTYPES}
)
_T = TypeVar("_T")

# Under which keys trainers put the tensors, the first to be preferred
_WRAPPERS = (
    "model_state", "state_dict", "model", "module", "generator", "ema", "model_ema", "generator_ema",
)  # fmt: skip


class HoldsCode(ValueError):
    """`str(error)`: the class or function that the pickle names."""


class NoWeights(ValueError):
    """A sound pickle of something else; `str(error)` says of what."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """key: of the storage. storage_size: its numbers, or its bytes where untyped. offset and strides: in numbers."""

    key: str
    dtype: str
    untyped: bool
    storage_size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    kind: str
    key: str
    size: int


def read_state_dict(pickled: bytes) -> tuple[dict[str, StoredTensor], str]:
    """(the tensors by name, of a dict of tensors or of one that trainers wrapped, such as `model`; which one is
    read where it holds several, one line).

    Raises HoldsCode where it names anything else than torch.save needs for that, NoWeights where it holds no
    such dict, ValueError where it is damaged.
    """
    try:
        outer = _walk(pickled)
    except (IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"opcodes that make no sense: {error}") from None
    if not isinstance(outer, dict):
        raise NoWeights("expected a dict of tensors")
    found = _state_dicts(outer)
    if not found:
        raise NoWeights("no tensors in it")
    read, *others = found
    note = f"of its {' and '.join([read, *others])}, {read} is read" if read and others else ""
    return found[read], note


def _state_dicts(table: dict[str, Any], under: str = "") -> dict[str, dict[str, StoredTensor]]:
    """Where -> tensors: inside the known keys, two deep, before those of the table itself."""
    found: dict[str, dict[str, StoredTensor]] = {}
    for key in _WRAPPERS:
        inner = table.get(key)
        if isinstance(inner, dict):
            tensors = _tensors(inner)
            if tensors:
                found[under + key] = tensors
            elif not under:
                found |= _state_dicts(inner, f"{key}.")
    tensors = _tensors(table)
    return found if found or not tensors else {under: tensors}


def _tensors(table: dict[str, Any]) -> dict[str, StoredTensor]:
    return {name: value for name, value in table.items() if isinstance(value, StoredTensor)}


def _walk(pickled: bytes) -> object:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if number == MAX_OPCODES:
            raise ValueError(f"more than {MAX_OPCODES:,} opcodes")
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
            continue
        match name:
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(_since_mark(stack, marks)))
            case "TUPLE1":
                stack[-1] = (stack[-1],)
            case "TUPLE2" | "TUPLE3":
                stack.append(tuple(_pop(stack, 2 if name == "TUPLE2" else 3)))
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "REDUCE":
                function, arguments = _pop(stack, 2)
                stack.append(_call(function, arguments))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "EMPTY_TUPLE":
                stack.append(())
            case "NEWFALSE" | "NEWTRUE":
                stack.append(name == "NEWTRUE")
            case "NONE":
                stack.append(None)
            case "GLOBAL":
                stack.append(_global(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                stack.append(_global(".".join(_pop(stack, 2))))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], key, value)
            case "SETITEMS":
                items = _since_mark(stack, marks)
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _set(stack[-1], key, value)
            case "APPEND" | "APPENDS":
                items = _pop(stack, 1) if name == "APPEND" else _since_mark(stack, marks)
                _of(list, stack[-1]).extend(items)
            case "BUILD":
                # attributes of a dict, such as the _metadata of a state dict: nothing that we need
                stack.pop()
                _of(dict, stack[-1])
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case _:
                raise HoldsCode(f"the opcode {name}")
    raise ValueError("no end")


def _global(name: str) -> _Global:
    if name in _KNOWN:
        return _Global(name)
    if name.startswith("torch.") and name.endswith("Storage"):
        raise NoWeights(f"numbers of the kind {shortened(name)}, which Wan files do not use")
    raise HoldsCode(shortened(name))


def _call(function: object, arguments: object) -> object:
    """What the call would make, as a record. Only a few names get here: `_global` refuses the others."""
    name = _of(_Global, function).name
    arguments = _of(tuple, arguments)
    if name == _TENSOR:
        storage = _of(_Storage, arguments[0])
        return _tensor(storage, _STORAGES[storage.kind], *arguments[1:4])
    if name == _TENSOR_WITH_DTYPE:
        dtype = _of(_Global, arguments[-1]).name.removeprefix("torch.")
        return _tensor(_of(_Storage, arguments[0]), _DTYPES[dtype], *arguments[1:4])
    if name == _PARAMETER:
        return _of(StoredTensor, arguments[0])
    if name == _SIZE:
        return _numbers(arguments[0])
    if name == _ORDERED_DICT and not arguments:
        return {}
    raise ValueError(f"a call of {name}")


def _storage(identity: object) -> _Storage:
    tag, kind, key, _, size = _of(tuple, identity)
    if type(tag) is not str or tag != "storage" or type(size) is not int or size < 0:
        raise ValueError("an unknown kind of storage")
    return _Storage(_of(_Global, kind).name, _of(str, key), size)


def _tensor(
    storage: _Storage, dtype: str, offset: object, shape: object, strides: object
) -> StoredTensor:
    sizes, steps = _numbers(shape), _numbers(strides)
    if len(sizes) != len(steps) or type(offset) is not int or offset < 0:
        raise ValueError("a tensor without a place")
    untyped = storage.kind not in _STORAGES
    return StoredTensor(storage.key, dtype, untyped, storage.size, offset, sizes, steps)


def _numbers(value: object) -> tuple[int, ...]:
    numbers = _of(tuple, value)
    if len(numbers) > MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a shape that no tensor has")
    return numbers


def _set(table: object, key: object, value: object) -> None:
    table = _of(dict, table)
    if type(key) is not str:
        return  # numbers as keys name no tensors, and hostile ones could collide
    if key in table:
        raise ValueError(f"{shortened(key)} is there twice")
    table[key] = value


def _since_mark(stack: list[Any], marks: list[int]) -> list[Any]:
    return _pop(stack, len(stack) - marks.pop())


def _pop(stack: list[Any], count: int) -> list[Any]:
    if not 0 <= count <= len(stack):
        raise IndexError("the stack is empty")
    items = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return items


def _of(kind: type[_T], value: object) -> _T:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} instead of a {kind.__name__}")
    return value
