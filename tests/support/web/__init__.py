"""The inside of the range server.

A request's journey: a `connection` (or `h2_connection`) reads it as a `message`, and it becomes an `exchange`: it is
counted (`counters`), delayed, held by the gate (`state`), answered from the `files` (`site`) or spoiled by the `rules`,
and sent at the client's pace. Requests below ``/__control__/`` go to `control` and leave no trace in the counts.
"""
