"""Which names the page answers to, and which sites may send requests to it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from storage.errors import FatalError

_ORIGIN = re.compile(r"(?:(https?)://)?([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?")
_DEFAULT_PORT = {"http": 80, "https": 443}
READS = frozenset({"GET", "HEAD"})


class AllowedHosts:
    """The origins of the page, e.g. `gpu7.lab:8765` (http) or `https://review.example.org` (behind a TLS proxy)."""

    def __init__(self, origins: Iterable[str]) -> None:
        """Raises FatalError for anything that isn't `name[:port]` with http:// or https:// before it, or for none."""
        self._origins: dict[str, str] = {}
        self.secure = True
        """Whether all origins are https, so that cookies may be sent over TLS only."""
        for text in origins:
            scheme, name, port = _parsed(text)
            self.secure &= scheme == "https"
            default = _DEFAULT_PORT[scheme]
            # Browsers leave the default port out of both headers; proxies may put it into Host.
            host = name if port == default else f"{name}:{port}"
            self._origins[host] = f"{scheme}://{host}"
            if port == default:
                self._origins[f"{name}:{port}"] = f"{scheme}://{host}"
        if not self._origins:
            raise FatalError("the review page needs the name under which browsers open it, e.g. gpu7.lab:8765")

    def check(self, headers: Headers, method: str, *, form: bool) -> None:
        """Refuse (403) a request to another name, which is how DNS rebinding shows, or one from another site.

        `form` says that the request is a form's with a token among its fields. Such a form has `Origin: null`,
        because no referrer may be sent (Fetch standard, "append a request Origin header").
        """
        hosts = headers.getlist("host")
        origin = self._origins.get(hosts[0].lower()) if len(hosts) == 1 else None
        if origin is None:
            raise HTTPException(403, "This server does not answer to that host name. Open the address that it printed.")
        site = headers.get("sec-fetch-site", "same-origin")
        if method in READS:
            # A link may lead here from elsewhere; images, scripts and fetches of other sites may not.
            other = site in {"cross-site", "same-site"} and headers.get("sec-fetch-mode") != "navigate"
        else:
            given = headers.getlist("origin")
            other = site != "same-origin" or not (given in ([], [origin]) or (form and given == ["null"]))
        if other:
            raise HTTPException(403, "The request came from another site. Open the page itself and try again.")


def _parsed(text: str) -> tuple[str, str, int]:
    match = _ORIGIN.fullmatch(text.lower())
    scheme, name, digits = match.groups() if match else ("", "", "0")
    scheme = scheme or "http"
    port = int(digits or _DEFAULT_PORT[scheme])
    if not 1 <= port <= 65535:
        raise FatalError(f"{text!r} is no host of the review page; write name, name:port or https://name")
    return scheme, name, port
