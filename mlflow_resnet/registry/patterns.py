"""Names of models and aliases, as databases compare them and as rules write them."""

from __future__ import annotations

import re
import unicodedata


def fold_case(text: object) -> str:
    """Without case and accents: MySQL takes names that differ only in these for the same."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", str(text)) if not unicodedata.combining(each))
    return plain.casefold().strip()


def matches_pattern(name: str, pattern: str) -> bool:
    """Returns whether a name matches a pattern, in which `*` stands for any characters."""
    letters = ".*".join(map(re.escape, fold_case(pattern).split("*")))
    return re.fullmatch(letters, fold_case(name), re.DOTALL) is not None
