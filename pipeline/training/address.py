"""The network address at which the nodes of a training run meet."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated

from pydantic import AfterValidator


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of "HOST:PORT" ("[HOST]:PORT" for IPv6).

    Raises `ValueError` when it is malformed or means every address of the machine.
    """
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"{address!r} is not of the form HOST:PORT, such as 10.0.0.7:29500")
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    if everywhere:
        raise ValueError(
            f"{address!r} means every address of the machine; name the one that the other nodes connect to"
        )
    return host, int(port)


def resolve(address: str) -> str:
    """Returns the IP address of "HOST:PORT". Raises `OSError` for an unknown host."""
    host, port = split_address(address)
    return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])


def _checked(address: str) -> str:
    split_address(address)
    return address


Address = Annotated[str, AfterValidator(_checked)]
"""A setting of the form HOST:PORT."""
