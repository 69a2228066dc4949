"""Load untrusted checkpoints: parse to inert data, check it, then build it under a guard."""
