"""Where a redirect may lead: to this site, never to another."""

from __future__ import annotations

from urllib.parse import quote


def local_target(target: str) -> str:
    r"""`target`, a path with its query as a URL has them, fit for a Location header; `/` if it may name another site.

    Browsers read `//name` and `/\name` as another host, and drop line ends and tabs before they look.
    """
    if not target.startswith("/") or target[1:2] in {"/", "\\"} or not target.isprintable():
        return "/"
    return quote(target, safe="/?:@!$&'()*+,;=%")
