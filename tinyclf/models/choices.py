"""The names that stems and initial weights can have. Imports nothing, so that settings are checked without torch."""

STEMS = ("imagenet", "small", "small-pool", "sub-pixel")
STEM_INITS = ("random", "shrunk")
NAMED_WEIGHTS = ("none", "imagenet", "mini")
