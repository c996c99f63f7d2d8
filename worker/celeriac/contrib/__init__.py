"""Celeriac beside other libraries: databases, frameworks, test kits. Nothing here is imported unless you import it."""
