"""Profiles built from measurements, and profiles described: fits, sources, reports."""
