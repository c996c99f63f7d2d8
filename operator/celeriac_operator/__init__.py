"""The Kubernetes operator of Celeriac: how many workers, why, and who goes.

`operator/` above this package never gets an `__init__.py`: it would shadow the standard library's `operator`.
"""
