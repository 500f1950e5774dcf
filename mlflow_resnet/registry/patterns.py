"""Names of models and aliases, as databases compare them and as rules write them."""

from __future__ import annotations

import re
import unicodedata


def folded(text: object) -> str:
    """Without case and accents: MySQL takes names that differ only in these for the same."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", str(text)) if not unicodedata.combining(each))
    return plain.casefold().strip()


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern, in which `*` stands for any letters and all others for themselves, means the name."""
    letters = ".*".join(map(re.escape, folded(pattern).split("*")))
    return re.fullmatch(letters, folded(name), re.DOTALL) is not None
