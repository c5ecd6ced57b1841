"""`python -m fovea` is the command line."""

from pipelines.cli import main

main()
