"""numpy arrays <-> Tensor messages: typed, bounded, little-endian, chunked. Knows nothing of streams or services.

Up to 256 KiB the bytes travel inside the header; above that as 1 MiB chunks, which move at a steady rate where one
large message does not. numpy has no bfloat16: bf16 is rounded here from float32 and widened back.
"""

import math
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from triptych.errors import InvalidArgument
from triptych.v1 import tensor_pb2 as pb

DTypeName = Literal["f32", "f16", "bf16", "i64", "i32", "u8"]
Array = npt.NDArray[np.generic]

INLINE_BYTES: Final = 256 * 1024
CHUNK_BYTES: Final = 1024 * 1024
MAX_RANK: Final = 8

_WIRE: Final[dict[DTypeName, tuple[pb.DType.ValueType, np.dtype[np.generic]]]] = {
    "f32": (pb.D_TYPE_F32, np.dtype("<f4")),
    "f16": (pb.D_TYPE_F16, np.dtype("<f2")),
    "bf16": (pb.D_TYPE_BF16, np.dtype("<u2")),
    "i64": (pb.D_TYPE_I64, np.dtype("<i8")),
    "i32": (pb.D_TYPE_I32, np.dtype("<i4")),
    "u8": (pb.D_TYPE_U8, np.dtype("u1")),
}
_STORED: Final = dict(_WIRE.values())
_OWN_NAME: Final = {dtype: name for name, (_, dtype) in _WIRE.items() if name != "bf16"}


def to_messages(
    array: npt.NDArray[np.generic], dtype: DTypeName | None = None
) -> tuple[pb.Tensor, list[pb.TensorChunk]]:
    """The header and the chunks that must follow it (none up to 256 KiB). `dtype` None keeps the array's own; otherwise
    floats are rounded to nearest even. Raises ValueError for an array that has no place on the wire."""
    if array.size == 0 or array.ndim > MAX_RANK:
        raise ValueError(f"shape {array.shape}: needs at least one element and at most {MAX_RANK} dimensions")
    wire, stored = _stored(array, dtype)
    header = pb.Tensor(dtype=wire, shape=array.shape)
    if stored.nbytes <= INLINE_BYTES:
        header.data = stored.tobytes()
        return header, []
    view = stored.reshape(-1).view(np.uint8).data
    chunks = [pb.TensorChunk(data=bytes(view[at : at + CHUNK_BYTES])) for at in range(0, len(view), CHUNK_BYTES)]
    header.num_chunks = len(chunks)
    return header, chunks


class TensorAssembler:
    """Puts one tensor back together. Checks the header against `max_bytes` (on the wire) before anything is allocated;
    every mismatch is InvalidArgument naming `field`, the value and the bound."""

    def __init__(self, header: pb.Tensor, max_bytes: int, *, field: str = "tensor") -> None:
        self._field = field
        self._dtype = header.dtype
        self._shape = _checked_shape(header, field)
        self.num_bytes = math.prod(self._shape) * _STORED[header.dtype].itemsize
        if self.num_bytes > max_bytes:
            raise InvalidArgument(
                f"{field}.shape {self._shape} takes {self.num_bytes} bytes, above the limit of {max_bytes}"
            )
        self._num_chunks = _checked_num_chunks(header, self.num_bytes, field)
        self._chunks_seen = 0
        self._filled = 0
        self._buffer = bytearray(header.data) if self._num_chunks == 0 else bytearray(self.num_bytes)
        if self._num_chunks == 0:
            self._filled = self.num_bytes

    @property
    def complete(self) -> bool:
        return self._filled == self.num_bytes and self._chunks_seen == self._num_chunks

    def add(self, chunk: pb.TensorChunk) -> None:
        """Takes the next chunk, in order."""
        data = chunk.data
        name = f"{self._field}.chunk[{self._chunks_seen}]"
        if self._chunks_seen == self._num_chunks:
            raise InvalidArgument(f"{name} is one more than the {self._num_chunks} chunks announced")
        if not 0 < len(data) <= CHUNK_BYTES:
            raise InvalidArgument(f"{name} has {len(data)} bytes, must be 1 to {CHUNK_BYTES}")
        end = self._filled + len(data)
        is_last = self._chunks_seen + 1 == self._num_chunks
        if end > self.num_bytes or (is_last and end != self.num_bytes):
            raise InvalidArgument(f"{name} brings the total to {end} bytes, the shape needs {self.num_bytes}")
        self._buffer[self._filled : end] = data
        self._filled = end
        self._chunks_seen += 1

    def array(self) -> Array:
        """The tensor; bf16 and f16 widened to float32. A view of the assembler's memory where not widened."""
        if not self.complete:
            raise InvalidArgument(
                f"{self._field} ended after {self._chunks_seen} of {self._num_chunks} chunks "
                f"({self._filled} of {self.num_bytes} bytes)"
            )
        flat = np.frombuffer(self._buffer, dtype=_STORED[self._dtype])
        if self._dtype == pb.D_TYPE_BF16:
            flat = (flat.astype(np.uint32) << np.uint32(16)).view(np.float32)
        elif self._dtype == pb.D_TYPE_F16:
            flat = flat.astype(np.float32)
        return flat.reshape(self._shape)


def _stored(array: Array, dtype: DTypeName | None) -> tuple[pb.DType.ValueType, Array]:
    """The wire dtype, and the array contiguous in that dtype's little-endian storage."""
    own = _OWN_NAME.get(array.dtype.newbyteorder("<"))
    name = dtype or own
    if name is None:
        raise ValueError(f"dtype {array.dtype} has no place on the wire, known: {sorted(_WIRE)}")
    if name not in _WIRE:
        raise ValueError(f"unknown dtype {name!r}, known: {sorted(_WIRE)}")
    is_float = array.dtype.kind == "f" and name in ("f32", "f16", "bf16")
    if name != own and not is_float:
        raise ValueError(f"{array.dtype} does not become {name}: only floats are converted")
    wire, storage = _WIRE[name]
    stored = _round_to_bf16(array) if name == "bf16" else array.astype(storage, copy=False)
    return wire, np.ascontiguousarray(stored)


def _round_to_bf16(array: Array) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest even as torch does; NaN stays NaN (0x7FC0)."""
    floats = np.ascontiguousarray(array, dtype=np.float32)
    bits = floats.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")
    rounded[np.isnan(floats)] = 0x7FC0
    return rounded.reshape(array.shape)


def _checked_shape(header: pb.Tensor, field: str) -> tuple[int, ...]:
    if header.dtype not in _STORED:
        raise InvalidArgument(f"{field}.dtype is {header.dtype}, must be one of {sorted(_WIRE)}")
    if len(header.shape) > MAX_RANK:
        raise InvalidArgument(f"{field}.shape has {len(header.shape)} dimensions, at most {MAX_RANK}")
    shape = tuple(header.shape)
    if any(size < 1 for size in shape):
        raise InvalidArgument(f"{field}.shape is {shape}, every dimension must be at least 1")
    return shape


def _checked_num_chunks(header: pb.Tensor, num_bytes: int, field: str) -> int:
    if header.num_chunks == 0:
        if len(header.data) > INLINE_BYTES:
            raise InvalidArgument(f"{field}.data has {len(header.data)} bytes, above {INLINE_BYTES} send chunks")
        if len(header.data) != num_bytes:
            raise InvalidArgument(f"{field}.data has {len(header.data)} bytes, the shape needs {num_bytes}")
        return 0
    if header.data:
        raise InvalidArgument(f"{field}.data has {len(header.data)} bytes, must be empty when num_chunks is set")
    fewest = -(-num_bytes // CHUNK_BYTES)
    if not fewest <= header.num_chunks <= num_bytes:
        raise InvalidArgument(f"{field}.num_chunks is {header.num_chunks}, must be {fewest} to {num_bytes}")
    return header.num_chunks
