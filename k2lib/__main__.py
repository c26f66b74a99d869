"""`python -m k2lib`, the same as `k2`."""

from k2lib.cli import main

main()
