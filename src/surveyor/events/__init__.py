"""Progress events: typed values in append-only files, one JSON object per line.

An event is recorded regardless of the level of a logger, and then logged as a line for people. A function on a
pool appends to its own file; the flow follows these files. Progress therefore needs no messaging of the pool, and works
with any executor.
"""
