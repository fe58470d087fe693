"""Transports: one small interface, one file per service. Only here is `azure.*` imported."""
