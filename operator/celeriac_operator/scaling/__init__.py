"""How many replicas, why, and which pods go: pure functions of values.

Nothing here reads a clock, rolls dice or does I/O. The simulator, the property tests, `explain` and production run the
same code.
"""
