"""Sources of images with boxes or with masks, and the records made of them."""
