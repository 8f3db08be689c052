"""Tiny-ImageNet ResNet18 baselines, from raw data to accuracy tables and loss plots."""

__version__ = "0.1.0"
