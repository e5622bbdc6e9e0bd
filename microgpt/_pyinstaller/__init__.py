"""Tell PyInstaller where the hook for microgpt is: the entry point `pyinstaller40`."""

import os


def get_hook_dirs() -> list[str]:
    """Return the directory of `hook-microgpt.py`."""
    return [os.path.dirname(__file__)]
