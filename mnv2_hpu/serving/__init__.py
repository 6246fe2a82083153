"""Export modules, SavedModel, TFLite, the check after export."""
