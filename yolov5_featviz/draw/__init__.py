"""Feature maps to pictures. No module here reads or writes a file, except fonts."""
