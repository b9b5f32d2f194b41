"""What is wrong with the data of a calibration, or with the network, before anybody measures accuracy.

- `finding`: `Finding`, one thing that was noticed, with what to do about it
- `recipes`: ways from pixels to samples, the usual ones among them
- `evidence`: what a network remembers of its training data: BatchNorm statistics, or how its rectifiers are balanced
- `preprocessing`: the given recipe against the others
- `convergence`: whether there are enough images, from thresholds of halves
- `samples`: odd ones out
- `networks`: dead channels, huge ones, branches that vanish
"""

from calib8.analyze.doctor.finding import Finding, Severity

__all__ = ["Finding", "Severity"]
