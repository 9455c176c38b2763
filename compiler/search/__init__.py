"""Search: choose one option at each site so that the outputs change least within a latency budget.

Nothing here knows a runtime or a phone: costs, compiles and measurements come in as callables.
"""
