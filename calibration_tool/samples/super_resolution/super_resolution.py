"""Enlarge an image with a network, in FP32 or in INT8.

python super_resolution.py ../../custom small.png --scale 0.00392157 --output large.png
python super_resolution.py ../../custom small.png --scale 0.00392157 --output large.png --int8 fsrcnn

As usual, the network sees the luminance only, where all the detail is; the colours are interpolated. It enlarges by
itself (FSRCNN, ESPCN): how much is what its output's shape says.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sample_net import SampleError, add_mean, open_net, read_image, run_sample, sample_parser, to_input, write_image

BORDER = 4
"""Pixels at the edges that PSNR leaves out, as papers do: the network has less to go by there."""


def upscale_luminance(luminance: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    """The network's answer for pixels (H, W), as pixels (factor * H, factor * W), uint8."""
    net = open_net(args, luminance.shape)  # the input is as large as the image
    net.blobs[net.inputs[0]].data[...] = to_input(luminance, args)
    output = net.forward()[net.outputs[0]]
    if output.ndim != 4 or output.shape[:2] != (1, 1) or np.any(np.mod(output.shape[2:], luminance.shape)):
        raise SampleError(
            f"{args.model_path}: makes {output.shape} of an image of {luminance.shape}; (1, 1, H, W) with a whole "
            "multiple of the image's size is expected"
        )
    pixels = output[0, 0] / np.float32(args.scale) + np.float32(args.mean[0])
    return pixels.round().clip(0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two images (H, W), uint8, without their edges."""
    inside = slice(BORDER, -BORDER)
    difference = a[inside, inside].astype(np.float64) - b[inside, inside]
    return float(10 * np.log10(255**2 / max(np.mean(difference**2), 1e-10)))


def compare(upscaled: np.ndarray, bicubic: np.ndarray, reference: Path) -> None:
    """Print how near both luminances come to that of the original image."""
    original = cv2.cvtColor(read_image(reference), cv2.COLOR_BGR2YCrCb)[:, :, 0]
    if original.shape != upscaled.shape:
        raise SampleError(f"{reference}: is {original.shape}, the enlarged image is {upscaled.shape}")
    print(f"PSNR  {psnr(upscaled, original):.2f} dB, bicubic interpolation {psnr(bicubic, original):.2f} dB")


def enlarge(args: argparse.Namespace) -> None:
    """Write the large image."""
    small = cv2.cvtColor(read_image(args.image), cv2.COLOR_BGR2YCrCb)
    luminance = upscale_luminance(np.ascontiguousarray(small[:, :, 0]), args)
    height, width = luminance.shape
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    if args.reference:
        compare(luminance, large[:, :, 0], args.reference)
    large[:, :, 0] = luminance
    write_image(args.output, cv2.cvtColor(large, cv2.COLOR_YCrCb2BGR))
    print(args.output)


def main() -> int:
    """Read the arguments and enlarge."""
    parser = sample_parser("Enlarge an image with a network that takes and gives luminance.")
    add_mean(parser)
    parser.set_defaults(color="gray")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="the image in full size, to print the PSNR")
    parser.add_argument("--output", type=Path, default=Path("large.png"), help="the image (default: large.png)")
    return run_sample(parser, enlarge)


if __name__ == "__main__":
    sys.exit(main())
