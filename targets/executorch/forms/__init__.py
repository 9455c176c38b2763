"""Equal forms of operations that XNNPACK runs, or runs faster; one file a family."""
