"""`python -m tinyclf`, which `torchrun -m tinyclf` starts in every process."""

from tinyclf.cli import main

main()
