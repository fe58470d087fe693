"""The main job, for real and without Azure: stage handwritten digits, train on them, keep the model."""
