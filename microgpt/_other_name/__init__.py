"""The package microgpt by its other name, microgpt_cython.

For files that are themselves called microgpt.py: there `import microgpt` finds the file.
It is installed beside the package, and takes its own place in `sys.modules` by it.
"""

import importlib.util
import sys
from pathlib import Path


def _package() -> None:
    here = Path(__file__).resolve().parent
    folders = (here.parent / "microgpt", here.parent)  # installed; in place
    folder = next(folder for folder in folders if (folder / "oracle.py").exists())
    found = sys.modules.get("microgpt")
    if found is None:
        file = folder / "__init__.py"
        spec = importlib.util.spec_from_file_location(
            "microgpt", file, submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        found = sys.modules["microgpt"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    elif Path(getattr(found, "__file__", None) or ".").resolve().parent != folder:
        raise ImportError(
            f"a module of yours, {getattr(found, '__file__', found)}, is imported as microgpt: "
            "rename that file to use this package in the same program"
        )
    sys.modules[__name__] = found


_package()
