"""From raw images to verified TFRecords."""
