"""Several models on the same images: metrics, tables and figures."""
