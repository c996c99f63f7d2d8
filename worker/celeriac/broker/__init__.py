"""The message broker. kombu lives here and in `backends`, and nowhere else.

Nothing here knows tasks, pools or results: it moves messages, and says how many there are.
"""
