"""Capture feature maps; draw kernels and tensors."""
