"""`python -m hrm`."""

from .cli import main

main()
