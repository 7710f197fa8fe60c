"""`python -m pushtrain` is the command line."""

from pushtrain.cli import main

main()
