"""Networks in the shape in which torchvision and the ONNX zoo have them, small and with random weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Collects nodes and constants; values are named by number."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset, self.nodes, self.constants = opset, [], {}
        self._rng = np.random.default_rng(seed)

    def weights(self, *shape: int) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        return self.constant((self._rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32))

    def constant(self, array, dtype=None) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(numbers, np.int64)

    def node(self, op_type: str, *inputs: str, output: str = "", **attributes) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"/{op_type}_{len(self.nodes)}", **attributes))
        return name

    def conv(self, x: str, channels: int, outputs: int, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        pad = kernel // 2
        weights = self.weights(outputs, channels // group, kernel, kernel)
        return self.node(
            "Conv", x, weights, self.weights(outputs), kernel_shape=[kernel] * 2, strides=[stride] * 2,
            pads=[pad] * 4, group=group, dilations=[1, 1],
        )  # fmt: skip

    def batch_norm(self, x: str, channels: int) -> str:
        variance = self.constant(np.abs(self._rng.standard_normal(channels)).astype(np.float32) + np.float32(0.5))
        mean, gamma, beta = (self.weights(channels) for _ in range(3))
        return self.node("BatchNormalization", x, gamma, beta, mean, variance, epsilon=1e-5, momentum=0.9)

    def relu6(self, x: str) -> str:
        return self.node("Clip", x, self.constant(0, np.float32), self.constant(6, np.float32))

    def flattened(self, x: str) -> str:
        """What torch.flatten(x, 1) or view(x.size(0), -1) become."""
        size = self.node("Gather", self.node("Shape", x), self.constant(0, np.int64), axis=0)
        rows = self.node("Unsqueeze", size, self.ints(0))
        return self.node("Reshape", x, self.node("Concat", rows, self.ints(-1), axis=0))

    def classifier(self, x: str, channels: int, output: str = "logits") -> str:
        pooled = self.node("Flatten", self.node("GlobalAveragePool", x), axis=1)
        return self.node("Gemm", pooled, self.weights(10, channels), self.weights(10), output=output, transB=1)

    def model(self, outputs: Sequence[str], shape: Sequence[int | str] = ("batch", 3, 32, 32)):
        graph = helper.make_graph(
            self.nodes, "main_graph", [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def resnet(opset: int):
    """Convolutions with BatchNorm behind them, pooling with pads, shortcuts."""
    g = Graph(opset)
    x = g.node("Relu", g.batch_norm(g.conv("input", 3, 8, 7, 2), 8))
    x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=0, dilations=[1, 1])
    for channels, outputs, stride in ((8, 8, 1), (8, 16, 2)):
        y = g.node("Relu", g.batch_norm(g.conv(x, channels, outputs, 3, stride), outputs))
        y = g.conv(y, outputs, outputs)
        short = x if stride == 1 else g.conv(x, channels, outputs, 1, stride)
        x = g.node("Relu", g.node("Add", y, short))
    g.classifier(x, 16)
    return g.model(["logits"])


def mobilenet_v2(opset: int):
    """Depthwise convolutions, ReLU6 as Clip with constants, a shape that is computed."""
    g = Graph(opset)
    x = g.relu6(g.conv("input", 3, 8, 3, 2))
    y = g.relu6(g.conv(g.relu6(g.conv(x, 8, 24, 1)), 24, 24, 3, 1, group=24))
    x = g.node("Add", x, g.conv(y, 24, 8, 1))
    x = g.flattened(g.node("ReduceMean", x, g.ints(2, 3)) if opset >= 18 else g.node("ReduceMean", x, axes=[2, 3]))
    g.node("Gemm", g.node("Dropout", x), g.weights(10, 8), g.weights(10), output="logits", transB=1)
    return g.model(["logits"])


def mobilenet_v3(opset: int):
    """Squeeze and excitation; HardSwish as an operator, or as torch wrote it before."""
    g = Graph(opset)

    def swish(x: str) -> str:
        if opset >= 14:
            return g.node("HardSwish", x)
        return g.node("Mul", x, g.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))

    x = swish(g.conv("input", 3, 16, 3, 2))
    pooled = g.node("GlobalAveragePool", x)
    gate = g.node("HardSigmoid", g.conv(g.node("Relu", g.conv(pooled, 16, 8, 1)), 8, 16, 1), alpha=1 / 6, beta=0.5)
    x = swish(g.conv(g.node("Mul", gate, x), 16, 24, 1))
    three = g.relu6(g.node("Add", x, g.constant(3, np.float32)))
    x = g.node("Div", g.node("Mul", x, three), g.constant(6, np.float32))
    g.classifier(x, 24)
    return g.model(["logits"])


def shufflenet(opset: int):
    """Channels that are split, joined and dealt out, with the shape computed from the value's own."""
    g = Graph(opset)
    x = g.node("Relu", g.conv("input", 3, 16, 3, 2))
    left, right = "left", "right"
    inputs = [x] if opset < 18 else [x, g.ints(8, 8)]
    g.nodes.append(helper.make_node("Split", inputs, [left, right], name="/chunk", axis=1))
    right = g.node("Relu", g.conv(right, 8, 8, 3, 1, group=8))
    x = g.node("Concat", left, right, axis=1)
    sizes = g.node("Shape", x)
    n, h, w = (g.node("Unsqueeze", g.node("Gather", sizes, g.constant(i, np.int64)), g.ints(0)) for i in (0, 2, 3))
    x = g.node("Reshape", x, g.node("Concat", n, g.ints(2), g.ints(8), h, w, axis=0))
    x = g.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = g.node("Reshape", x, g.node("Concat", n, g.ints(-1), h, w, axis=0))
    g.classifier(x, 16)
    return g.model(["logits"])


def squeezenet(opset: int):
    """Fire modules, poolings that round up, a convolution as the classifier."""
    g = Graph(opset)
    x = g.node("Relu", g.conv("input", 3, 8, 3, 2))
    x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    squeezed = g.node("Relu", g.conv(x, 8, 4, 1))
    x = g.node("Concat", *(g.node("Relu", g.conv(squeezed, 4, 8, k)) for k in (1, 3)), axis=1)
    x = g.node("Relu", g.conv(g.node("Dropout", x), 16, 10, 1))
    g.node("Flatten", g.node("GlobalAveragePool", x), output="logits", axis=1)
    return g.model(["logits"])


def densenet(opset: int):
    """BatchNorm in front of convolutions, features joined over and over."""
    g = Graph(opset)
    features, channels = [g.conv("input", 3, 8, 3, 2)], 8
    for _ in range(3):
        x = g.node("Concat", *features, axis=1) if len(features) > 1 else features[0]
        features.append(g.conv(g.node("Relu", g.batch_norm(x, channels)), channels, 4))
        channels += 4
    x = g.node("Relu", g.batch_norm(g.node("Concat", *features, axis=1), channels))
    x = g.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    g.classifier(x, channels)
    return g.model(["logits"])


def inception(opset: int):
    """Branches, averages that count the pads, kernels that are not square; the input's own normalisation."""
    g = Graph(opset)
    scaled = g.node("Mul", "input", g.constant(np.array([0.458, 0.448, 0.45]).reshape(1, 3, 1, 1), np.float32))
    x = g.node("Add", scaled, g.constant(np.array([-0.03, -0.088, -0.188]).reshape(1, 3, 1, 1), np.float32))
    x = g.node("Relu", g.conv(x, 3, 8, 3, 2))
    pooled = g.node("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1)
    wide = g.node("Conv", x, g.weights(8, 8, 1, 7), kernel_shape=[1, 7], pads=[0, 3, 0, 3])
    tall = g.node("Conv", wide, g.weights(8, 8, 7, 1), kernel_shape=[7, 1], pads=[3, 0, 3, 0])
    x = g.node("Concat", g.conv(pooled, 8, 4, 1), g.node("Relu", tall), axis=1)
    g.classifier(x, 12)
    return g.model(["logits"])


def ssd(opset: int):
    """Heads of two feature maps, one of which is an output itself and goes on; priors are a constant."""
    g = Graph(opset)
    x = g.node("Relu", g.conv("input", 3, 8, 3, 4))
    boxes, scores = [], []
    for output in ("features", ""):
        x = g.node("Relu", g.conv(x, 8, 8, 3, 2), output=output)
        for heads, numbers in ((boxes, 4), (scores, 3)):
            head = g.node("Transpose", g.conv(x, 8, 2 * numbers, 3), perm=[0, 2, 3, 1])
            heads.append(g.node("Reshape", head, g.ints(1, -1, numbers)))
    priors = g.constant(np.linspace(0, 1, 40 * 4).reshape(1, 40, 4), np.float32)
    found = g.node("Concat", *boxes, axis=1)
    centres = g.node("Mul", g.node("Slice", found, g.ints(0), g.ints(2), g.ints(2)), g.constant(0.1, np.float32))
    places = g.node("Slice", priors, g.ints(0), g.ints(2), g.ints(2))
    g.node("Add", centres, places, output="centres")
    g.node("Exp", g.node("Slice", found, g.ints(2), g.ints(2**63 - 1), g.ints(2)), output="sizes")
    g.node("Softmax", g.node("Concat", *scores, axis=1), output="scores", axis=-1)
    return g.model(["features", "centres", "sizes", "scores"])


def yolo(opset: int):
    """Feature maps that are enlarged, x * sigmoid(x), a grid that is added, boxes in one row."""
    g = Graph(opset)

    def silu(x: str) -> str:
        return g.node("Mul", x, g.node("Sigmoid", x))

    focus = [
        g.node("Slice", "input", g.ints(h, w), g.ints(2**63 - 1, 2**63 - 1), g.ints(2, 3), g.ints(2, 2))
        for h, w in ((0, 0), (1, 0), (0, 1), (1, 1))
    ]
    x = silu(g.conv(g.node("Concat", *focus, axis=1), 12, 8, 3, 2))
    deep = silu(g.conv(x, 8, 8, 3, 2))
    how = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
    large = g.node("Resize", deep, "", g.constant([1, 1, 2, 2], np.float32), **how)
    x = g.conv(g.node("Concat", large, x, axis=1), 16, 2 * 7, 1)
    x = g.node("Transpose", g.node("Reshape", x, g.ints(1, 2, 7, 8, 8)), perm=[0, 1, 3, 4, 2])
    x = g.node("Sigmoid", x)
    g.nodes.append(helper.make_node("Split", [x, g.ints(2, 2, 3)], ["xy", "wh", "conf"], name="/split", axis=4))
    grid = g.constant(np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(1, 1, 8, 8, 2), np.float32)
    two, half = g.constant(2, np.float32), g.constant(0.5, np.float32)
    centre = g.node("Add", g.node("Sub", g.node("Mul", "xy", two), half), grid)
    size = g.node(
        "Mul", g.node("Pow", g.node("Mul", "wh", two), two), g.constant(np.ones((1, 2, 1, 1, 2)) * 3, np.float32)
    )
    rows = g.node("Concat", centre, size, "conf", axis=4)
    g.node("Reshape", rows, g.ints(1, -1, 7), output="boxes")
    return g.model(["boxes"])


def convnext(opset: int):
    """Depthwise 7 x 7, then channels last: LayerNormalization, two products and a GELU, a learned step."""
    g = Graph(opset)

    def normalised(x: str) -> str:
        gamma, beta = g.weights(12), g.weights(12)
        if opset >= 17:
            return g.node("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-6)

        def mean(x: str) -> str:
            return g.node("ReduceMean", x, axes=[-1])

        centred = g.node("Sub", x, mean(x))
        variance = mean(g.node("Pow", centred, g.constant(2, np.float32)))
        deviation = g.node("Sqrt", g.node("Add", variance, g.constant(1e-6, np.float32)))
        return g.node("Add", g.node("Mul", g.node("Div", centred, deviation), gamma), beta)

    def gelu(x: str) -> str:
        if opset >= 20:
            return g.node("Gelu", x)
        inner = g.node("Erf", g.node("Div", x, g.constant(np.sqrt(2), np.float32)))
        outer = g.node("Mul", x, g.node("Add", inner, g.constant(1, np.float32)))
        return g.node("Mul", outer, g.constant(0.5, np.float32))

    x = g.node("Conv", "input", g.weights(12, 3, 4, 4), kernel_shape=[4, 4], strides=[4, 4])
    y = g.node("Transpose", g.conv(x, 12, 12, 7, 1, group=12), perm=[0, 2, 3, 1])
    y = gelu(g.node("Add", g.weights(48), g.node("MatMul", normalised(y), g.weights(12, 48))))
    y = g.node("Add", g.weights(12), g.node("MatMul", y, g.weights(48, 12)))
    y = g.node("Mul", g.node("Transpose", y, perm=[0, 3, 1, 2]), g.weights(12, 1, 1))
    g.classifier(g.node("Add", y, x), 12)
    return g.model(["logits"])


NETWORKS = [resnet, mobilenet_v2, mobilenet_v3, shufflenet, squeezenet, densenet, inception, convnext, ssd, yolo]
