"""Progress, curves, the report."""
