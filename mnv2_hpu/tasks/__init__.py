"""Task subclasses, thin."""
