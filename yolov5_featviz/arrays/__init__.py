"""Functions on numpy arrays: boxes, scales, reductions, resampling, images."""
