"""Python layers that calib8 brings along; prototxts name them without the package."""
