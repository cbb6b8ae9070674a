"""`python -m app.cli` is `ordertape`."""

from app.cli.main import main

main()
