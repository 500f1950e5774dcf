"""The page at `/`: which version answers, and a place to drop a picture on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from starlette.responses import HTMLResponse

from mlflow_resnet.io.text.templates import render_template

TEMPLATE = "serving/page.html.jinja"
POLICY = (  # nothing is loaded from elsewhere, and no other page may show this one
    "default-src 'none'; connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
)


def show_page(facts: Mapping[str, Any]) -> HTMLResponse:
    """Args: facts: what `/model` says."""
    nonce = secrets.token_urlsafe(16)
    policy = POLICY.format(nonce=nonce)
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return HTMLResponse(render_template(TEMPLATE, nonce=nonce, **facts), headers=headers)
