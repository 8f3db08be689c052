"""Tiny-ImageNet ResNet18 baselines, from raw data to accuracy tables and loss plots."""

import warnings

__version__ = "0.1.0"

# Accelerate's libraries ask tqdm for a notebook's bars, which asks for ipywidgets by a warning on every page.
warnings.filterwarnings("ignore", message="IProgress not found")
