"""Numpy arrays in, numpy arrays out: boxes, scales, reductions, resampling, images."""
