"""A small network for every layer type, for the contract test, which fails for types that are missing here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerCase:
    """One layer behind Input layers.

    Attributes:
        type, param, tops: of the layer.
        bottoms: a shape, for random values, or an array.
        mixes_samples: whether a sample of a top depends on other samples of the bottoms.
    """

    type: str
    param: str
    bottoms: tuple[Shape | np.ndarray, ...]
    tops: int = 1
    mixes_samples: bool = False

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(b.shape if isinstance(b, np.ndarray) else b for b in self.bottoms)

    def prototxt(self, *, in_place: bool = False, extra: str = "") -> str:
        lines = [
            f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ dim: {list(s)} }} }} }}'
            for i, s in enumerate(self.shapes)
        ]
        bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(self.bottoms)))
        tops = " ".join(f'top: "{"x" if in_place else "y"}{i}"' for i in range(self.tops))
        lines.append(f'layer {{ name: "l" type: "{self.type}" {bottoms} {tops} {self.param} {extra} }}')
        return "\n".join(lines)

    def inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            f"x{i}": b if isinstance(b, np.ndarray) else rng.standard_normal(b).astype(np.float32)
            for i, b in enumerate(self.bottoms)
        }


def floats(*values: object) -> np.ndarray:
    return np.array(values, np.float32)


_RNG = np.random.default_rng(7)
_IMAGE = (2, 4, 6, 5)
_CONT = floats([0, 0], [1, 1], [1, 0])
_REGIONS = floats([0, 0, 0, 9, 9], [1, 2, 1, 7, 8], [1, 4, 4, 4, 4])
_PRIORS = np.concatenate([_RNG.uniform(0, 0.4, (1, 1, 3, 2)), _RNG.uniform(0.5, 1, (1, 1, 3, 2))], -1)
_PRIORS = np.concatenate([_PRIORS.reshape(1, 1, 12), np.full((1, 1, 12), 0.1)], 1).astype(np.float32)
_SPATIAL = "num_output: 6 kernel_size: 3 pad: 1"
_FACES = tuple(
    _RNG.uniform(0, 1, (1, c, s, s)).astype(np.float32) if c == 4 else (1, c, s, s)
    for s in (4, 2, 1)
    for c in (4, 8, 20)
)

CASES = [
    *(LayerCase(t, "", shape) for t in (
        "AbsVal", "BNLL", "Mish", "Sigmoid", "TanH", "ReLU6", "HardSigmoid", "HardSwish", "ELU", "Exp", "Power", "ReLU",
        "Erf", "Swish", "Threshold", "Softmax", "Dropout", "SpatialDropout", "PReLU", "PReLURistretto", "Split",
    ) for shape in ((_IMAGE,), ((3, 5),))),
    LayerCase("Log", "", (np.abs(_RNG.standard_normal(_IMAGE)).astype(np.float32) + 1,)),
    LayerCase("ReLU", "relu_param { negative_slope: 0.1 }", (_IMAGE,)),
    LayerCase("ReLU", "relu_param { relu6: true }", (_IMAGE,)),
    LayerCase("Power", "power_param { power: 2 scale: 0.5 shift: 1 }", ((7,),)),
    LayerCase("Clip", "clip_param { min: -0.5 max: 1 }", (_IMAGE,)),
    LayerCase("ArgMax", "argmax_param { top_k: 2 out_max_val: true }", (_IMAGE,)),
    LayerCase("ArgMax", "argmax_param { axis: 1 }", (_IMAGE,)),
    LayerCase("Axpy", "", ((2, 4), _IMAGE, _IMAGE)),
    LayerCase("BN", "", (_IMAGE,)),
    LayerCase("BatchNorm", "", (_IMAGE,)),
    LayerCase("BatchNorm", "batch_norm_param { scale_bias: true }", ((3, 4),)),
    LayerCase("BatchReindex", "", (_IMAGE, floats(1, 0, 1)), mixes_samples=True),
    LayerCase("Bias", "", (_IMAGE,)),
    LayerCase("Bias", "bias_param { axis: 0 }", (_IMAGE, (2, 4))),
    LayerCase("Scale", "scale_param { bias_term: true }", (_IMAGE,)),
    LayerCase("Scale", "scale_param { axis: 0 }", (_IMAGE, (2, 4))),
    LayerCase("Concat", "", (_IMAGE, (2, 3, 6, 5))),
    LayerCase("Concat", "concat_param { axis: 0 }", (_IMAGE, _IMAGE), mixes_samples=True),
    LayerCase("Convolution", f"convolution_param {{ {_SPATIAL} stride: 2 }}", (_IMAGE,)),
    LayerCase("ConvolutionRistretto", f"convolution_param {{ {_SPATIAL} }} quantization_param {{ bw_params: 8 }}",
              (_IMAGE,)),
    LayerCase("DeconvolutionRistretto", f"convolution_param {{ {_SPATIAL} }}", (_IMAGE,)),
    LayerCase("FcRistretto", "inner_product_param { num_output: 3 }", (_IMAGE,)),
    LayerCase("LRNRistretto", "lrn_param { local_size: 3 } quantization_param { precision: MINIFLOAT }", (_IMAGE,)),
    LayerCase("Deconvolution", f"convolution_param {{ {_SPATIAL} stride: 2 }}", (_IMAGE,)),
    LayerCase("Convolution", f"convolution_param {{ {_SPATIAL} group: 2 dilation: 2 }}", (_IMAGE, _IMAGE), tops=2),
    LayerCase("ConvolutionDepthwise", "convolution_param { kernel_size: 3 }", (_IMAGE,)),
    LayerCase("DepthwiseConvolution", "convolution_param { num_output: 4 kernel_size: 3 }", (_IMAGE,)),
    LayerCase("Im2col", "convolution_param { kernel_size: 3 }", (_IMAGE,)),
    LayerCase("Crop", "crop_param { axis: 2 offset: 1 }", (_IMAGE, (2, 4, 3, 3))),
    LayerCase("DetectionOutput", "detection_output_param { num_classes: 2 nms_param { nms_threshold: 0.4 } }",
              ((2, 12), _RNG.uniform(0, 1, (2, 6)).astype(np.float32), _PRIORS), mixes_samples=True),
    *(LayerCase("Eltwise", f"eltwise_param {{ operation: {op} }}", (_IMAGE, _IMAGE)) for op in ("SUM", "PROD", "MAX")),
    LayerCase("Embed", "embed_param { num_output: 3 input_dim: 5 }", (floats([0, 4], [2, 1]),)),
    LayerCase("Flatten", "", (_IMAGE,)),
    LayerCase("FrcnDetection",
              "frcn_detection_param { class_num: 2 keep_topk: 4 nms_threshold: 0.3 obj_threshold: 0.4 }",
              ((3, 8), _RNG.uniform(0, 1, (3, 2)).astype(np.float32), _REGIONS[None, None]), mixes_samples=True),
    LayerCase("InnerProduct", "inner_product_param { num_output: 7 }", (_IMAGE,)),
    LayerCase("Interp", "interp_param { height: 9 width: 8 }", (_IMAGE,)),
    LayerCase("Interp", "interp_param { use_blob_size: true }", (_IMAGE, (2, 1, 7, 11))),
    LayerCase("LRN", "lrn_param { local_size: 3 }", (_IMAGE,)),
    LayerCase("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }", (_IMAGE,)),
    LayerCase("LSTM", "recurrent_param { num_output: 3 }", ((3, 2, 4), _CONT), mixes_samples=True),
    LayerCase("RNN", "recurrent_param { num_output: 3 }", ((3, 2, 4), _CONT), mixes_samples=True),
    LayerCase("Lstm", "lstm_param { num_output: 3 }", ((3, 2, 4),), mixes_samples=True),
    LayerCase("MVN", "", (_IMAGE,)),
    LayerCase("MatMul", "matmul_param { dim_1: 2 dim_2: 3 dim_3: 4 }", ((2, 3), (4, 3)), mixes_samples=True),
    LayerCase("Mul", "", (_IMAGE, (4, 1, 1)), mixes_samples=True),
    LayerCase("Normalize", "", (_IMAGE,)),
    LayerCase("PSROIPooling", "psroi_pooling_param { spatial_scale: 0.5 output_dim: 1 group_size: 2 }",
              (_IMAGE, _REGIONS), mixes_samples=True),
    LayerCase("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }", (_IMAGE, _REGIONS),
              mixes_samples=True),
    LayerCase("Padding", "padding_param { pad_t: 1 pad_r: 2 }", (_IMAGE,)),
    LayerCase("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", (_IMAGE,)),
    LayerCase("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", (_IMAGE,)),
    LayerCase("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", (_IMAGE,), tops=2),
    LayerCase("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", (_IMAGE,)),
    LayerCase("Pooling", "pooling_param { pool: AVE global_pooling: true }", (_IMAGE,)),
    LayerCase("PriorBox", "prior_box_param { min_size: 3 aspect_ratio: 2 }", (_IMAGE, (2, 3, 24, 20)),
              mixes_samples=True),
    LayerCase("PriorBoxClustered", "prior_box_param { width: 3 height: 4 step: 4 }", (_IMAGE, (2, 3, 24, 20)),
              mixes_samples=True),
    LayerCase("Proposal",
              "proposal_param { feat_stride: 4 net_input_h: 24 net_input_w: 24 rpn_obj_threshold: 0.2 "
              "rpn_nms_threshold: 0.7 rpn_nms_post_top_n: 5 }",
              (_RNG.uniform(0, 1, (2, 18, 3, 3)).astype(np.float32), (2, 36, 3, 3)), mixes_samples=True),
    LayerCase("Reduction", "reduction_param { axis: 1 operation: MEAN }", (_IMAGE,)),
    LayerCase("Region", "region_param { classes: 2 boxes_of_each_grid: 2 }", ((2, 14, 3, 3),)),
    LayerCase("PassThrough", "pass_through_param { block_height: 2 block_width: 3 }", ((2, 4, 6, 6),)),
    LayerCase("Reorg", "reorg_param { stride: 2 }", ((2, 4, 6, 6),)),
    LayerCase("Reshape", "reshape_param { shape { dim: [0, 2, -1] } }", (_IMAGE,)),
    LayerCase("RetinaFaceDetection",
              "retinaface_detection_param { nms_threshold: 0.5 confidence_threshold: 0.3 keep_topk: 6 }", _FACES,
              mixes_samples=True),
    LayerCase("Reverse", "reverse_param { axis: 2 }", (_IMAGE,)),
    LayerCase("SPP", "spp_param { pyramid_height: 2 }", (_IMAGE,)),
    LayerCase("ShuffleChannel", "shuffle_channel_param { group: 2 }", (_IMAGE,)),
    LayerCase("Silence", "", (_IMAGE, (3,)), tops=0),
    LayerCase("Slice", "slice_param { slice_point: 1 }", (_IMAGE,), tops=2),
    LayerCase("Split", "", (_IMAGE,), tops=3),
    LayerCase("Squeeze", "squeeze_param { axis: 1 }", ((3, 1, 4),)),
    LayerCase("Tile", "tile_param { axis: 1 tiles: 3 }", (_IMAGE,)),
    LayerCase("Transpose", "transpose_param { dim: [0, 3, 1, 2] }", (_IMAGE,)),
    LayerCase("Upsample", "upsample_param { scale: 2 }", (_IMAGE,)),
    LayerCase("YoloDetection",
              'yolo_detection_param { class_num: 2 keep_topk: 5 net_input_h: 32 net_input_w: 32 obj_threshold: 0.1 '
              'nms_threshold: 0.5 anchors: "4,5,6,7,8,9" }', ((2, 21, 4, 4),)),
    LayerCase("YoloDetectionOutput",
              "yolo_detection_output_param { num_classes: 2 num_box: 1 biases: [2, 3] confidence_threshold: 0.1 }",
              ((2, 7, 3, 3),), mixes_samples=True),
    LayerCase("Yolov3DetectionOutput",
              "yolov3_detection_output_param { num_classes: 2 num_box: 1 biases: [2, 3] mask: 0 mask_group_num: 1 "
              "anchors_scale: 8 confidence_threshold: 0.1 }", ((2, 7, 3, 3),), mixes_samples=True),
    LayerCase("ContinuationIndicator", "continuation_indicator_param { time_step: 3 batch_size: 2 }", ()),
    LayerCase("DummyData", 'dummy_data_param { shape { dim: [2, 3] } data_filler { type: "constant" value: 2 } }', ()),
    LayerCase("Parameter", "parameter_param { shape { dim: [2, 3] } }", ()),
]  # fmt: skip

SOURCES = {
    "AnnotatedData", "Data", "DenseImageData", "HDF5Data", "ImageData", "ImageLabelData", "ImageLabelListData",
    "ImageSegData", "Input", "MemoryData", "VideoData", "WindowData",
}  # fmt: skip
"""Types whose tops are the network's inputs: there is nothing to run."""
