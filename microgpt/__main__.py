"""`python -m microgpt`: the command line."""

from microgpt.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
