"""The strategies of search, one a file, found by the folder; `compiler.search.strategy` opens them.

A file has `open_strategy(setting) -> Strategy`.
"""
