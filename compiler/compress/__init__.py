"""Lossy decisions: int8, and the segments a search decides on."""
