"""Datastores: Prefect blocks that hold a connection, and the registry that finds them by name."""
