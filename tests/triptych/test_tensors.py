"""Tensors on the wire: round trips, rounding like torch's, and headers that lie."""

import tracemalloc

import numpy as np
import pytest
import torch

from triptych.errors import InvalidArgument
from triptych.tensors import CHUNK_BYTES, INLINE_BYTES, Array, DTypeName, TensorAssembler, to_messages
from triptych.v1 import tensor_pb2 as pb

MAX_BYTES = 64 * 1024 * 1024


def assemble(header: pb.Tensor, chunks: list[pb.TensorChunk], max_bytes: int = MAX_BYTES) -> Array:
    assembler = TensorAssembler(pb.Tensor.FromString(header.SerializeToString()), max_bytes)
    for chunk in chunks:
        assert not assembler.complete
        assembler.add(chunk)
    assert assembler.complete
    return assembler.array()


@pytest.mark.parametrize("dtype", ["f4", "f2", "i8", "i4", "u1", ">f4", ">i8"])
def test_round_trip_in_its_own_dtype(dtype: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = tuple(int(n) for n in rng.integers(1, 9, size=rng.integers(0, 6)))
        array = (rng.normal(size=shape) * 100).astype(dtype)
        back = assemble(*to_messages(array))
        assert back.shape == array.shape
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("num_bytes", [INLINE_BYTES, INLINE_BYTES + 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_chunks_by_size(num_bytes: int) -> None:
    array = np.random.default_rng(1).integers(0, 256, size=num_bytes, dtype=np.uint8)
    header, chunks = to_messages(array)
    assert len(header.data) == (num_bytes if num_bytes <= INLINE_BYTES else 0)
    assert header.num_chunks == len(chunks) == (0 if num_bytes <= INLINE_BYTES else -(-num_bytes // CHUNK_BYTES))
    assert all(0 < len(chunk.data) <= CHUNK_BYTES for chunk in chunks)
    np.testing.assert_array_equal(assemble(header, chunks), array)


def test_strided_and_transposed_arrays() -> None:
    array = np.arange(600 * 500, dtype=np.float32).reshape(600, 500)
    for view in (array.T, array[::2, ::3], array[:, ::-1]):
        np.testing.assert_array_equal(assemble(*to_messages(view)), view)


def test_result_is_writable() -> None:
    back = assemble(*to_messages(np.zeros(4, np.float32)))
    back[0] = 1.0
    assert back[0] == 1.0


def test_bf16_rounds_as_torch_does() -> None:
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2**32, size=200_000, dtype=np.uint32)
    ties = (rng.integers(0, 2**16, size=20_000, dtype=np.uint32) << 16) | np.uint32(0x8000)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1.0, 3.4028235e38, 1e-45, -1e-40], np.float32).view(np.uint32)
    floats = np.concatenate([bits, ties, special]).view(np.float32)
    floats = floats[~np.isnan(floats)]
    expected = torch.from_numpy(floats.copy()).bfloat16().float().numpy()
    np.testing.assert_array_equal(assemble(*to_messages(floats, "bf16")).view(np.uint32), expected.view(np.uint32))


def test_bf16_nan_stays_nan() -> None:
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan(assemble(*to_messages(nans, "bf16"))).all()


def test_bf16_takes_two_bytes_and_scalars() -> None:
    header, chunks = to_messages(np.array(1.0, np.float32), "bf16")
    assert (header.dtype, list(header.shape), header.data, chunks) == (pb.D_TYPE_BF16, [], b"\x80\x3f", [])
    assert assemble(header, chunks) == np.float32(1.0)


def test_f16_is_widened() -> None:
    array = np.array([1.5, 65504.0, np.inf, 6e-8], np.float32)
    back = assemble(*to_messages(array, "f16"))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, torch.from_numpy(array).half().float().numpy())


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        (np.zeros((2, 0), np.float32), None, "at least one element"),
        (np.zeros((1,) * 9, np.float32), None, "at most 8"),
        (np.zeros(2, np.complex64), None, "no place on the wire"),
        (np.zeros(2, np.float32), "f8", "unknown dtype 'f8'"),
        (np.zeros(2, np.int64), "f32", "only floats"),
        (np.zeros(2, np.float32), "i32", "only floats"),
        (np.zeros(2, np.int64), "i32", "only floats"),
    ],
)
def test_arrays_with_no_place_on_the_wire(array: Array, dtype: DTypeName | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_messages(array, dtype)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (pb.Tensor(shape=[1], data=b"1234"), r"x\.dtype is 0"),
        (pb.Tensor(dtype=77, shape=[1], data=b"1234"), r"x\.dtype is 77"),  # type: ignore[arg-type]
        (pb.Tensor(dtype=pb.D_TYPE_F32, shape=[-1], data=b"1234"), r"shape is \(-1,\), every dimension .* at least 1"),
        (pb.Tensor(dtype=pb.D_TYPE_F32, shape=[2, 0]), "every dimension must be at least 1"),
        (pb.Tensor(dtype=pb.D_TYPE_F32, shape=[-2, -2], data=b"1" * 16), "every dimension must be at least 1"),
        (pb.Tensor(dtype=pb.D_TYPE_U8, shape=[1] * 9, data=b"1"), "9 dimensions, at most 8"),
        (pb.Tensor(dtype=pb.D_TYPE_U8, shape=[1] * 100_000, data=b"1"), "100000 dimensions"),
        (pb.Tensor(dtype=pb.D_TYPE_F32, shape=[2**62, 2**62], num_chunks=1), "above the limit of 1048577"),
        (pb.Tensor(dtype=pb.D_TYPE_F32, shape=[2**40], num_chunks=2**20), "above the limit of 1048577"),
        (pb.Tensor(dtype=pb.D_TYPE_F32, shape=[2], data=b"1234"), "has 4 bytes, the shape needs 8"),
        (pb.Tensor(dtype=pb.D_TYPE_F32, shape=[1]), "has 0 bytes, the shape needs 4"),
        (pb.Tensor(dtype=pb.D_TYPE_BF16, shape=[1], data=b"123"), "has 3 bytes, the shape needs 2"),
        (pb.Tensor(dtype=pb.D_TYPE_U8, shape=[4], data=b"1234", num_chunks=1), "must be empty when num_chunks is set"),
        (pb.Tensor(dtype=pb.D_TYPE_U8, shape=[INLINE_BYTES + 1], data=b"1" * (INLINE_BYTES + 1)), "send chunks"),
        (pb.Tensor(dtype=pb.D_TYPE_U8, shape=[CHUNK_BYTES + 1], num_chunks=1), "must be 2 to 1048577"),
        (pb.Tensor(dtype=pb.D_TYPE_U8, shape=[4], num_chunks=5), "must be 1 to 4"),
        (pb.Tensor(dtype=pb.D_TYPE_U8, shape=[4], num_chunks=-1), "must be 1 to 4"),
    ],
)
def test_hostile_headers(header: pb.Tensor, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        TensorAssembler(header, CHUNK_BYTES + 1, field="x")
    assert str(caught.value).startswith("x.")


def test_size_is_checked_before_memory_is_taken() -> None:
    header = pb.Tensor(dtype=pb.D_TYPE_F32, shape=[2**16, 2**14], num_chunks=4096)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgument, match="above the limit"):
            TensorAssembler(header, 1024)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_random_headers_never_break_out() -> None:
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(2000):
        header = pb.Tensor(
            dtype=int(rng.integers(0, 8)),  # type: ignore[arg-type]
            shape=[int(n) for n in rng.integers(-1, 5, size=rng.integers(0, 4))],
            data=bytes(int(rng.integers(0, 20))),
            num_chunks=int(rng.integers(-1, 3)) if rng.random() < 0.3 else 0,
        )
        try:
            assembler = TensorAssembler(header, 4096)
            assert not assembler.complete or assembler.array().shape == tuple(header.shape)
        except InvalidArgument:
            refused += 1
    assert 0 < refused < 2000


def chunk(num_bytes: int) -> pb.TensorChunk:
    return pb.TensorChunk(data=bytes(num_bytes))


def chunked(num_bytes: int, num_chunks: int) -> TensorAssembler:
    return TensorAssembler(
        pb.Tensor(dtype=pb.D_TYPE_U8, shape=[num_bytes], num_chunks=num_chunks), MAX_BYTES, field="x"
    )


def test_smaller_chunks_are_fine() -> None:
    assembler = chunked(10, 3)
    for size in (3, 3, 4):
        assembler.add(chunk(size))
    assert assembler.array().shape == (10,)


def test_empty_chunk() -> None:
    with pytest.raises(InvalidArgument, match=r"x\.chunk\[0\] has 0 bytes, must be 1 to"):
        chunked(10, 2).add(chunk(0))


def test_too_large_chunk() -> None:
    with pytest.raises(InvalidArgument, match=r"has 1048577 bytes, must be 1 to 1048576"):
        chunked(2 * CHUNK_BYTES, 2).add(chunk(CHUNK_BYTES + 1))


def test_more_bytes_than_the_shape_needs() -> None:
    assembler = chunked(10, 3)
    assembler.add(chunk(6))
    with pytest.raises(InvalidArgument, match="total to 12 bytes, the shape needs 10"):
        assembler.add(chunk(6))


def test_fewer_bytes_than_the_shape_needs() -> None:
    assembler = chunked(10, 2)
    assembler.add(chunk(4))
    with pytest.raises(InvalidArgument, match="total to 9 bytes, the shape needs 10"):
        assembler.add(chunk(5))


def test_one_chunk_too_many() -> None:
    assembler = chunked(10, 1)
    assembler.add(chunk(10))
    with pytest.raises(InvalidArgument, match="one more than the 1 chunks announced"):
        assembler.add(chunk(1))


def test_a_stream_that_ends_early() -> None:
    assembler = chunked(10, 2)
    assembler.add(chunk(4))
    assert not assembler.complete
    with pytest.raises(InvalidArgument, match=r"ended after 1 of 2 chunks \(4 of 10 bytes\)"):
        assembler.array()
