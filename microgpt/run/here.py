"""`import microgpt.run.here` as a program's first line: run it as `microgpt run` does.

The program that imports this module is run from its beginning, its class, functions and
loops compiled where they behave the same, and the process ends with it.
"""

from __future__ import annotations

import sys


def _run() -> None:
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if path is None or not path.endswith(".py"):
        return  # a shell or a notebook, or the program is being run so already
    from microgpt.run import run_program

    with open(path, "rb") as file:
        source = file.read()
    status = run_program(sys.argv[0], source, sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    raise SystemExit(status)


_run()
