"""Export modules, SavedModel, TFLite, ONNX, the check after export."""
