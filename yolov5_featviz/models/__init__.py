"""Any network: its layers, what they return, and where models come from."""
