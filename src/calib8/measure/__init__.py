"""From samples to thresholds.

- `histogram`: what is counted of a blob: the largest |x|, the distribution of |x|, in one pass or two
- `states`: what a counter has counted, as a value that can be merged; `histogram_file`: such states on disk
- `thresholds`: the methods that turn a histogram into a threshold, by name
"""
