"""torchvision's models, the surgery on them, their weights and what they cost. Imports utils and data."""
