"""Makes good what a run leaves whose process is gone without a word: its folder, and the state that is shown of it."""
