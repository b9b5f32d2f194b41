"""What layer types are made of; no layer type is in here, and nothing here knows one.

- `base`: `Op`, the class that every layer type extends, and the registry of all of them
- `fields`, `legacy`, `named_axis`: reading a layer's parameters, old spellings included, refusing what is not read
- `onnx_builder`, `codes`: the nodes that a layer adds, in float and over codes
- `form`, `weighted_sum`, `table_row`, `real_scales`: what quantising a layer gives, and how files have it
- the others: geometry and formulas that several types share (windows, boxes, recurrences, sorting ..)
"""
