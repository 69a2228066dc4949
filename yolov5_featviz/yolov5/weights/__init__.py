"""Read a checkpoint from a stranger: parse it to inert data, check that, build what it says, under a guard."""
