"""What a torch pickle may name: its storages and what rebuilds tensors of them, described, never built by torch."""

from typing import Any, NamedTuple

import torch

from model.checkpoints.stored import Malformed, StoredTensor, shown, stored_tensor
from model.checkpoints.unpickler import Builders, Name, Pickle, StandIn, put_text_keys, unpickle

_MAX_KEY_CHARACTERS = 64
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8,
}  # fmt: skip
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
_DTYPES = {
    name: dtype
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
        "uint8", "bool", "complex128", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
        "float8_e5m2fnuz", "float8_e8m0fnu",
    )
    if (dtype := getattr(torch, name, None)) is not None
}  # fmt: skip


class Storage(NamedTuple):
    """Elements that tensors share; in old files a part of another storage."""

    key: str
    num_bytes: int
    """Of the whole storage."""
    dtype: torch.dtype
    start: int
    """In elements."""
    num: int


class TorchPickle(NamedTuple):
    """What a torch pickle holds, and the storages that it names."""

    value: Any
    storages: dict[str, Storage]
    end: int


def read_torch_pickle(content: bytes, start: int = 0) -> TorchPickle:
    """Return what a pickle of torch.save holds; raises Malformed or ValueError."""
    storages: dict[str, Storage] = {}
    value, end = unpickle(content, start, BUILDERS, lambda saved: _find_storage(saved, storages))
    return TorchPickle(value, storages, end)


def read_plain_pickle(content: bytes, start: int) -> Pickle:
    """Return a pickle of plain values alone; raises Malformed or ValueError."""
    return unpickle(content, start)


def _find_storage(saved: Any, storages: dict[str, Storage]) -> Any:
    """Return the storage that a persistent id names, or a module's class. Source: torch/serialization.py."""
    match saved:
        case ("module", Name() as name, *_):  # with its source, in old files
            return name
        case ("storage", Name(module, name), str(key), _, int(num), *view) if (
            module in _STORAGE_MODULES and name in _STORAGES and 0 <= num < 1 << 62 and len(key) <= _MAX_KEY_CHARACTERS
        ):
            dtype = _STORAGES[name]
        case _:
            found = (
                shown(saved[1].name) if isinstance(saved, tuple) and saved[1:] and isinstance(saved[1], Name) else ""
            )
            raise Malformed(f"expected a storage of torch, found {found or 'something else'}; save it again with torch")
    whole = Storage(key, num * dtype.itemsize, dtype, 0, num)
    if storages.setdefault(key, whole) != whole:
        raise Malformed(f"expected one storage {shown(key)}, found it in two sizes; download it again")
    return _view(whole, view[0]) if view and view[0] is not None else whole


def _view(whole: Storage, view: Any) -> Storage:
    """Return a part of a storage, as torch before 0.4 stored them."""
    match view:
        case (_, int(start), int(num)) if min(start, num) >= 0 and start + num <= whole.num:
            return whole._replace(start=start, num=num)
    raise Malformed(f"expected a part of storage {shown(whole.key)}, found one outside of it; download it again")


def _rebuild(storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)) or dtype is None:
        raise Malformed(
            "expected a storage, an offset, a shape and strides of a tensor, found others; download it again"
        )
    if storage.num < storage.num_bytes // storage.dtype.itemsize:  # its part alone counts
        stored_tensor(storage.key, storage.num * storage.dtype.itemsize, dtype, shape, strides, offset)
    if type(offset) is int:
        offset += storage.start
    return stored_tensor(storage.key, storage.num_bytes, dtype, shape, strides, offset)


def _tensor(arguments: tuple) -> StoredTensor:
    """`_rebuild_tensor` and `_rebuild_tensor_v2`: storage, offset, shape, strides, and what does not matter here."""
    storage, offset, shape, strides, _, _, metadata, *_ = (*arguments, *[None] * 7)
    _refuse_lazy(metadata)
    return _rebuild(storage, getattr(storage, "dtype", None), offset, shape, strides)


def _tensor_v3(arguments: tuple) -> StoredTensor:
    """`_rebuild_tensor_v3`: the dtype stands apart from an untyped storage."""
    storage, offset, shape, strides, _, _, dtype, metadata, *_ = (*arguments, *[None] * 8)
    _refuse_lazy(metadata)
    known = _DTYPES.get(dtype.name) if isinstance(dtype, Name) and dtype.module == "torch" else None
    return _rebuild(storage, known, offset, shape, strides)


def _refuse_lazy(metadata: Any) -> None:
    """Refuse what is stored otherwise than it is: torch conjugates and negates views of complex numbers as it reads."""
    if metadata:
        raise Malformed("expected a tensor as it is, found one to be conjugated or negated; save its resolve_conj()")


def _parameter(arguments: tuple) -> Any:
    """`_rebuild_parameter`, and in old files the class itself: the tensor, whether it is trained, hooks."""
    return arguments[0] if arguments else StandIn()


def _of_type(arguments: tuple) -> Any:
    """`_rebuild_from_type_v2`: a tensor with attributes, by the function that rebuilds it and its arguments."""
    function, _, inner, *_ = (*arguments, *[None] * 3)
    builder = _TENSORS.get(function) if isinstance(function, Name) else None
    return builder(inner) if builder and isinstance(inner, tuple) else None


def _shape(arguments: tuple) -> Any:
    """`torch.Size`."""
    return arguments[0] if arguments else ()


def _mapping(arguments: tuple) -> dict[str, Any]:
    """`OrderedDict`, empty or of a list of pairs, as Python 2 wrote it."""
    mapping: dict[str, Any] = {}
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
    put_text_keys(mapping, (pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2))
    return mapping


_TENSORS: Builders = {
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
BUILDERS: Builders = {
    **_TENSORS,
    Name("torch.nn.parameter", "Parameter"): _parameter,
    Name("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    Name("torch", "Size"): _shape,
    Name("collections", "OrderedDict"): _mapping,
}
