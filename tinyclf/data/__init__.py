"""The data sets: their names, files, packed arrays, and the batches made of them. Imports utils."""
