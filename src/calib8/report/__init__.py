"""One HTML file that shows what INT8 does to a network: made to be looked at, opened without a network.

- `contents`: everything that a report shows, as values
- `lanes`: a network as rows and lanes, for drawing
- `drawings`: network, histograms, weights and comparisons as SVG
- `shown_samples`: FP32 and INT8 side by side
- `sections`: the parts of the page
- `build`: the page, with its style, scripts and security policy (`page/`)
"""

from calib8.report.build import report_html
from calib8.report.contents import Report, ShownSample

__all__ = ["Report", "ShownSample", "report_html"]
