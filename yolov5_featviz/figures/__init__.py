"""Figures for papers: panels in rows and columns at a journal's width."""
