"""Datastores as a file system, in a process of its own; knows no Prefect."""
