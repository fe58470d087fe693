"""Runs a person's script as a child process that cannot outlive the run. It knows no Prefect."""
