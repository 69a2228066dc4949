"""Runs over many images: what to draw, the run folder, the report."""
