"""Looking at networks: what is in them, what is wrong with them, where the accuracy goes, and how to get it back.

- `overview`: every layer with its shapes, sizes and precision, and all problems of the network
- `metrics`: how far INT8 values are from FP32 ones, each figure with its formula
- `judges`: how much worse INT8 outputs are, in one number; `yolo` and `user_metric` are further ones
- `units`: layers that switch between INT8 and FP32 together
- `experiment`: a network run again and again, computing only what differs; `kept_values` is its memory
- `sensitivity`: what quantising each layer costs
- `search`: searches for better thresholds, apart from the running; `candidates` is what they begin with
- `trials`: answers what a search asks, with an experiment; `journal` records the answers
- `tuning`: a search run to its end
- `mixed`: which layers to keep in FP32
"""

from calib8.analyze.overview import LayerRow, Overview, overview_of

__all__ = ["LayerRow", "Overview", "overview_of"]
