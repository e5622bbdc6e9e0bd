"""MkDocs: the reference is made when the site is, and files outside docs/ lie in the repository."""

import re
import subprocess
import sys
from pathlib import Path

from mkdocs.structure.files import File

REFERENCE = Path(__file__).with_name("reference.py")


def on_files(files, config):
    """Add the page reference.md."""
    made = subprocess.run([sys.executable, REFERENCE], stdout=subprocess.PIPE, check=True)
    files.append(File.generated(config, "reference.md", content=made.stdout.decode()))


def on_page_markdown(markdown, config, **_):
    """Return a page whose links to ../FILE lead to that file in the repository."""
    return re.sub(r"\]\(\.\./(\S+?)\)", rf"]({config['repo_url']}/blob/main/\1)", markdown)
