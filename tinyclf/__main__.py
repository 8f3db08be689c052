"""`python -m tinyclf`, which `accelerate launch -m tinyclf` and `torchrun -m tinyclf` start in every process."""

from tinyclf.cli import main

main()
