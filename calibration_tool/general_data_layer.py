"""The data layer of the guide's samples, at the place where the guide has it. See calib8.data.bundled."""

from calib8.data.bundled.general_data_layer import DataLayer

__all__ = ["DataLayer"]
