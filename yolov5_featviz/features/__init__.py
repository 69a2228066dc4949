"""Capture feature maps, and draw kernels and tensors."""
