"""`python -m discreteness` is the `discreteness` command (torchrun -m needs a module)."""

from discreteness.cli.main import main

main()
