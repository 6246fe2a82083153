"""What the recipe needs and Model Garden lacks."""
