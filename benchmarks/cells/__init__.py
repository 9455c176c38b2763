"""The cells of benchmarks/search_cells.py: how one is run, judged, shown, crossed with other devices."""
