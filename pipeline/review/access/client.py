"""What a request says about where it comes from and what it asks for."""

from __future__ import annotations

import ipaddress

from starlette.requests import Request


def client_address(request: Request) -> str:
    """The address by which clients are counted: an IPv4 address, or an IPv6 network of /64, as one host has."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


def request_target(request: Request, *, without: str = "") -> str:
    """Path and query as the URL has them, leaving out the query's fields named `without`."""
    path, query = bytes(request.scope.get("raw_path") or b"/"), bytes(request.scope["query_string"])
    fields = [field for field in query.decode("latin-1").split("&") if field and field.partition("=")[0] != without]
    return path.decode("latin-1") + (f"?{'&'.join(fields)}" if fields else "")
