"""MkDocs: files outside docs/ are linked to in the repository."""

import re


def on_page_markdown(markdown, config, **_):
    """Return a page whose links to ../FILE lead to that file in the repository."""
    return re.sub(r"\]\(\.\./(\S+?)\)", rf"]({config['repo_url']}/blob/main/\1)", markdown)
