"""Thin Prefect tasks around functions of the domain.

They have no tags: before a task with tags begins, Prefect requests a concurrency slot for them from its server. Without
tags a task needs no server, so labels and trainings continue while the server is away.
"""
