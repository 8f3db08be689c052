"""The train loop, what steps in it, its checkpoints, and evaluation. Imports utils, data and models."""
