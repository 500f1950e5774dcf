"""Removes credentials from URIs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# In abfs:// and wasb:// the part before the "@" is the name of a container, and no secret.
URI = re.compile(r"(?<![\w+.-])(?P<scheme>(?!abfss?:|wasbs?:)[A-Za-z][\w+.-]*://)(?P<rest>[^\s\"]+)")
DATABASE = re.compile(r"(?i)(resnet-gate\+)?(postgres|mysql|mariadb|mssql|oracle|mongo|redis)")
AUTHORITY = re.compile(r"[^/?#]*")
HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?([/?#,;.)\]']|$)")
SECRET_NAMES = r"[\w.-]*(?:signature|token|secret|passw|credential|api[_-]?key|access[_-]?key)[\w.-]*|sig|pwd|auth"
SECRET = re.compile(rf"(?i)(?P<name>[?&;#](?:{SECRET_NAMES}|odbc_connect)=|\b(?:password|passwd|pwd)=)[^&;\s#\"]+")
HIDDEN = "***"


def without_credentials(text: str) -> str:
    """The text; in the URIs in it there is no user, password, signature or token.

    `http://me:secret@host/x?token=abc` becomes `http://host/x?token=***`.
    """
    if "://" in text:
        text = URI.sub(lambda found: found["scheme"] + without_user(found["scheme"], found["rest"]), text)
    return SECRET.sub(rf"\g<name>{HIDDEN}", text) if "=" in text else text


def without_user(scheme: str, rest: str) -> str:
    """Removes the user and password from what follows a URI's scheme.

    A password with a "/" in it makes no valid URI, but drivers of databases take it, and errors repeat it.
    """
    authority = AUTHORITY.match(rest)[0]  # type: ignore[index]
    if "@" in authority:
        return rest[authority.rindex("@") + 1 :]
    is_odd = ":" in authority and (DATABASE.match(scheme) or not HOST_AND_PORT.match(rest))
    return rest[rest.rindex("@") + 1 :] if is_odd and "@" in rest else rest


def all_without_credentials(facts: Any) -> Any:
    """Facts that JSON can hold, with every text in them as `without_credentials` has it."""
    if isinstance(facts, str):
        return without_credentials(facts)
    if isinstance(facts, Mapping):
        return {name: all_without_credentials(value) for name, value in facts.items()}
    return [all_without_credentials(each) for each in facts] if isinstance(facts, list | tuple) else facts
