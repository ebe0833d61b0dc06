"""What happens, as it happens: values of a few kinds, in append-only files, one JSON object a line.

An event is recorded whatever the level of a logger is, and then logged as a line for people. A function that runs on a
pool appends to a file of its own; the flow follows those files. So progress needs no messaging of the pool's, and any
executor serves.
"""
