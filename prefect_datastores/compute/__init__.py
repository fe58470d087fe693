"""Where work runs, and how it gets at data there: one table, what reads it, and what its cells need."""
