"""Flows that run elsewhere: their code as a snapshot, their deployment, and the steps that bring the code."""
