"""Every decision of the worker and the client: values in, a value out.

No I/O, no clock, no dice, no threads, no logging. Time and chance are parameters, so that each decision is a table in the tests.
"""
