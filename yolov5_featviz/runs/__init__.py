"""One run over many images: what to draw, where it goes, the report."""
