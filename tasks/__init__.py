"""Thin Prefect tasks around functions of the domain.

They have no tags: before a task with tags begins, Prefect asks its server for a place under them. Without tags a task
needs no server, and labels and trainings go on while the server is away.
"""
