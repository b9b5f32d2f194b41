"""Looking at networks: what is in them, what is wrong with them, where the accuracy goes.

- `overview`: every layer with its shapes, sizes and precision, and all problems of the network
"""

from calib8.analyze.overview import LayerRow, Overview, overview_of

__all__ = ["LayerRow", "Overview", "overview_of"]
