"""Celery's formats as values: messages, results, events, remote control.

Pure: no kombu, no clock, no ids rolled here. What stands on the wire is named in the field's docstring with its source.
"""
