"""What can be typed behind `calib8`: a file per command with its options and its help, and options that several share.

A mistake in a command line, `--help` and completion are answered from here alone, so nothing is imported that computes:
no numpy, no ONNX Runtime, no room of calib8's. Names that can be chosen are in `calib8.choices`. What runs a command is
`run` of the module of its name in `calib8.cli`, imported when the line is known to be right.
"""
