"""The published file of YAMNet, ``yamnet.tflite``, as a state dict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def read_tflite(path: Path, owner: str) -> dict[str, Tensor]:
    r"""The weights of a tflite file that is laid out as YAMNet's, dequantised.

    .. math:: w = s \, (q - z)

    with the scale :math:`s` and the zero point :math:`z` of the tensor, or of each of its channels. Layers are told by
    their order in the graph, since the file names them after what was fused: a convolution, pairs of a depthwise and a
    pointwise one, and two products with a matrix, the mel filters and the classifier.

    Args:
        path: The file.
        owner: Who reads it, the beginning of the error.

    Returns:
        Name in the state dict of :class:`~lightning_cosprune.models.YAMNet` -> tensor, float32.

    Raises:
        ImportError: The package that reads such files is not installed.
        ValueError: The file is damaged, or its layers are in another order.

    Source: TensorFlow Lite 8-bit quantization specification.
    """
    try:
        import tflite
    except ImportError as error:
        raise ImportError(
            f"{owner}: expected the package tflite, which reads tflite files, found none. Write `pip install "
            "'lightning-cosprune[tflite]'`, or give a state dict."
        ) from error

    try:
        return _Graph(tflite, path.read_bytes()).weights()
    except Exception as error:  # offsets that lead nowhere end in any of struct's, NumPy's and Python's own errors
        raise ValueError(
            f"{owner}: expected the layers of yamnet.tflite, found {type(error).__name__}: {error!s:.300}. Download "
            "the file again."
        ) from error


class _Graph:
    """The operators of a model, and the constant tensors that they read."""

    def __init__(self, tflite: Any, content: bytes) -> None:
        self.model = tflite.Model.GetRootAs(content, 0)
        self.graph = self.model.Subgraphs(0)
        self.operators = tflite.BuiltinOperator
        self.dtypes: dict[int, np.dtype[Any]] = {
            tflite.TensorType.FLOAT32: np.dtype("<f4"),
            tflite.TensorType.INT8: np.dtype("i1"),
            tflite.TensorType.INT32: np.dtype("<i4"),
        }

    def weights(self) -> dict[str, Tensor]:
        weights: dict[str, npt.NDArray[np.float32]] = {}
        layer, prefix = 0, ""
        for place in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(place)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            if kind == self.operators.DEPTHWISE_CONV_2D:
                layer += 1
                prefix = f"layer{layer}.depthwise"
                weights[f"{prefix}.weight"] = self._constant(operator.Inputs(1)).transpose(3, 0, 1, 2)
            elif kind == self.operators.CONV_2D:
                layer = layer or 1
                prefix = "layer1.conv" if layer == 1 else f"layer{layer}.pointwise"
                weights[f"{prefix}.weight"] = self._constant(operator.Inputs(1)).transpose(0, 3, 1, 2)
            elif kind == self.operators.FULLY_CONNECTED and not layer:
                weights["mel_filters"] = self._constant(operator.Inputs(1))
                continue  # its bias is the 0.001 before the logarithm
            elif kind == self.operators.FULLY_CONNECTED:
                prefix = "classifier"
                weights[f"{prefix}.weight"] = self._constant(operator.Inputs(1))
            else:
                continue
            weights[f"{prefix}.bias"] = self._constant(operator.Inputs(2))
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()}

    def _constant(self, place: int) -> npt.NDArray[np.float32]:
        tensor = self.graph.Tensors(place)
        shape = tensor.ShapeAsNumpy()
        content = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        numbers: npt.NDArray[Any] = np.frombuffer(content, self.dtypes[tensor.Type()]).reshape(shape)
        quantization = tensor.Quantization()
        if quantization is None or not quantization.ScaleLength():
            return numbers.astype(np.float32)
        channels = np.ones(len(shape), dtype=int)
        channels[quantization.QuantizedDimension()] = -1
        scale = quantization.ScaleAsNumpy().reshape(channels)
        zero = quantization.ZeroPointAsNumpy().reshape(channels)
        # Biases have more digits than float32 holds: rounded once, at the end.
        exact: npt.NDArray[np.float64] = (numbers - zero) * scale.astype(np.float64)
        return exact.astype(np.float32)
