"""A module to an ONNX graph whose first dimension, the batch, is free."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from triptych.errors import ExportError
from triptych.exports import MAX_BATCH_SIZE

DTYPES: Final = {"f32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
OPSET: Final = 20
BF16_OPSET: Final = 22  # the first whose convolutions may be bf16
MAX_INLINE_BYTES: Final = 2**31 - 2**20  # of protobuf; larger graphs keep their weights in a file beside


class Rounded(nn.Module):
    """`module` computing in `dtype`, float32 in and out.

    Norms stay in float32: their sums of squares are what overflows in float16 (seen in SigLIP under TensorRT).
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(dtype)
        self.dtype = dtype
        if dtype is not torch.float32:
            _keep_norms(self.module)

    def forward(self, *inputs: Tensor) -> Tensor:
        with _layer_by_layer():
            return self.module(*(x.to(self.dtype) for x in inputs)).float()  # type: ignore[no-any-return]


class _Float32Norm(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(x.dtype)  # type: ignore[no-any-return]


def write_graph(
    module: nn.Module, examples: dict[str, Tensor], output: str, path: Path, precision: str = "f32"
) -> None:
    """`path` gets the graph, inputs named as `examples`, whose batch is 2: one of 1 would be fixed as a constant.

    int8: the float32 graph with the weights of its matrix products rounded to 8 bits, one scale for each output
    channel, and activations at run time. Raises ExportError for a module that torch cannot write as a graph.
    """
    rounded = Rounded(module, DTYPES[precision]).eval().requires_grad_(False)
    try:
        program = _program(rounded, examples, output, BF16_OPSET if precision == "bf16" else OPSET)
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"{path.stem} cannot be written as a graph in {precision}: {_reason(error)}") from error
    num_bytes = sum(p.numel() * p.element_size() for p in rounded.parameters())
    is_large = num_bytes > MAX_INLINE_BYTES
    if precision != "int8":
        program.save(path, external_data=is_large)
        return
    with TemporaryDirectory(dir=path.parent) as folder, _quiet():
        plain = Path(folder) / path.name
        program.save(plain, external_data=is_large)
        quantize_dynamic(
            plain, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
        )


def _program(module: nn.Module, examples: dict[str, Tensor], output: str, opset: int) -> torch.onnx.ONNXProgram:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH_SIZE)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(examples.values()),
            dynamo=True,
            opset_version=opset,
            input_names=list(examples),
            output_names=[output],
            dynamic_shapes=(tuple({0: batch} for _ in examples),),
            verbose=False,
        )
    assert program is not None  # only without dynamo
    return program


def _reason(error: torch.onnx.OnnxExporterError) -> str:
    """The first line of what went wrong; the exporter's own message is advice over many lines."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).strip()}".splitlines()[0]


def _keep_norms(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.LayerNorm | nn.GroupNorm):
            setattr(module, name, _Float32Norm(child))
        else:
            _keep_norms(child)


@contextmanager
def _layer_by_layer() -> Iterator[None]:
    """Without torch's fused transformer layers: they read the norms' own parameters, past what wraps them."""
    is_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_enabled)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells about torchvision, which is not there, and its own deprecations; the quantizer about a pass
    that only the other kind of quantization needs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
