"""How uvicorn serves the review page."""

from __future__ import annotations

import uvicorn

from pipeline.review.access.gate import Gate
from pipeline.review.access.terms import Access


def server_settings(app: Gate, access: Access, address: str, port: int) -> uvicorn.Config:
    """Settings for `uvicorn.Server`. Raises FatalError if other machines can reach `address` without a password.

    h11 is the parser because it caps the head of a request. Sessions and rates are in memory: one process serves all.
    """
    access.check_address(address)
    return uvicorn.Config(
        app,
        host=address,
        port=port,
        http="h11",
        ws="none",
        h11_max_incomplete_event_size=access.limits.head_bytes,
        limit_concurrency=access.limits.connections,
        # Only a proxy on this machine may say who its client is, and only if https names show that there is one.
        proxy_headers=access.hosts.secure,
        forwarded_allow_ips="127.0.0.1",
        server_header=False,
        # The access log would keep the token of the link.
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
