"""From samples to thresholds.

- `histogram`: what is counted of a blob: the largest |x|, the distribution of |x|, in one pass or two
- `thresholds`: the methods that turn a histogram into a threshold, by name
"""
