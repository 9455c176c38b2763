"""Ways to choose calibration samples from a larger pool: one file each, found by being in this folder.

A way is a module, its name the method's, with

    FACT                                  what it looks at, in words for messages
    observe(calls) -> [N, ...]                 the facts of the N samples of the pool's calls, in order
    select(facts, count, random) -> [count]    which samples to take

`observe` raises UsageError where the model or the data does not give the facts; `select` gets fewer
samples asked for than there are.
"""
