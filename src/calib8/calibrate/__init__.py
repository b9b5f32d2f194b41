"""From samples to thresholds.

- `histogram`: what is counted of a blob: the largest |x|, the distribution of |x|, in one pass or two
- `histogram_file`: histograms kept on disk, so that another method needs no new run
- `thresholds`: the methods that turn a histogram into a threshold, by name
"""
