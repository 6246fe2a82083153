"""TensorFlow's data service: other hosts read, decode and distort training's images."""
