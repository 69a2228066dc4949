"""Paper figures: panels in rows and columns at a journal's column width."""
