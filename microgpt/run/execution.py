"""Running a script as `python SCRIPT` runs it, under a watch."""

from __future__ import annotations

import importlib.machinery
import os
import signal
import sys
import threading
import types
from typing import Any

from microgpt.run.watch import Watch

AT_START = {
    *sys.builtin_module_names,
    *"__main__ _collections_abc _sitebuiltins abc codecs encodings genericpath importlib".split(),
    *"io ntpath os posixpath site sitecustomize stat usercustomize zipimport".split(),
}


def execute(path: str, source: bytes, args: list[str], watch: Watch) -> int:
    """Run a script as __main__, with its own argv, path and tracebacks; return its exit status."""
    full = os.path.abspath(path)
    try:
        code = watch.code(source, full)
    except (SyntaxError, ValueError, RecursionError):
        import subprocess

        # Python reads the file itself, for its exact message.
        return subprocess.run([sys.executable, path, *args]).returncode
    main: Any = types.ModuleType("__main__")
    main.__file__ = full
    if sys.version_info < (3, 14):  # which no longer has them
        main.__cached__ = None
        main.__annotations__ = {}
    sys.modules["microgpt.run.here"] = types.ModuleType("microgpt.run.here")  # is running
    main.__builtins__ = sys.modules["builtins"]
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", full)
    sys.argv = [path, *args]
    directory = os.path.dirname(os.path.realpath(path))
    sys.path[0] = directory
    _forget_shadowing_modules(directory)
    sys.modules["__main__"] = main
    watch.install()
    try:
        exec(code, main.__dict__)
    except SystemExit as error:
        return _exit_status(error)
    except BaseException as error:
        # The frame of this function is not the script's.
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        error.__traceback__ = trace
        _forget_own_frames(error)
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            _exit_by_interrupt()
        return 1
    finally:
        watch.uninstall()
    return 0


def _forget_own_frames(error: BaseException | None) -> None:
    """Take the frames of compiled code out of an exception's traceback and of those before it."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kept = []
        trace = error.__traceback__
        while trace is not None:
            if not trace.tb_frame.f_code.co_filename.endswith((".pyx", ".pxd")):
                kept.append(trace)
            trace = trace.tb_next
        for one, following in zip(kept, [*kept[1:], None]):
            one.tb_next = following
        error.__traceback__ = kept[0] if kept else None
        _forget_own_frames(error.__cause__)
        error = error.__context__


def _forget_shadowing_modules(directory: str) -> None:
    """Forget imported modules that have the names of modules beside a script.

    These are ours, and those of Python's library that Python does not import at its start.
    """
    beside = {
        name.removesuffix(".py")
        for name in os.listdir(directory)
        if name.endswith(".py") or os.path.exists(os.path.join(directory, name, "__init__.py"))
    }
    for name in [name for name in sys.modules if name.split(".")[0] in beside - AT_START]:
        del sys.modules[name]


def _exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF if os.name == "posix" else error.code
    sys.stdout.flush()
    print(error.code, file=sys.stderr)
    return 1


def _exit_by_interrupt() -> None:
    """End as Python does after an unhandled Ctrl-C: by the signal itself."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if os.name == "posix" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
