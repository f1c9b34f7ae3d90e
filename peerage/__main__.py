"""`python -m peerage`: the command line."""

from peerage.cli import main

raise SystemExit(main())
