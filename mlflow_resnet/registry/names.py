"""Names of models, aliases and tags: how they compare, and how a tag's key holds them.

Unity Catalog refuses keys with any of `. , - = / :`, and other registries other letters, so ours hold ASCII letters,
digits and underscores. The keys of before, with dots between their parts, are read as well.
"""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress

PLAIN = re.compile(r"[0-9A-Za-z]")
ESCAPED = re.compile(r"_([0-9a-f]*)_")
ENCODED = re.compile(f"(?:{PLAIN.pattern}|{ESCAPED.pattern})*")
HISTORY_KEYS = "mlflow_resnet_history_", "mlflow_resnet.history."  # how keys begin: today's, those of before
EVIDENCE_KEYS = "mlflow_resnet_evidence_", "mlflow_resnet.evidence."
ENTRY_KEYS = (
    re.compile(re.escape(HISTORY_KEYS[0]) + r"(?P<alias>\w+)_(?P<sequence>\d{6,})", re.ASCII),
    re.compile(re.escape(HISTORY_KEYS[1]) + r"(?P<alias>[\w\-]+)\.(?P<sequence>\d{6,})"),
)


def fold_case(text: object) -> str:
    """Without case and accents: MySQL takes names that differ only in these for the same."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", str(text)) if not unicodedata.combining(each))
    return plain.casefold().strip()


def matches_pattern(name: str, pattern: str) -> bool:
    """Returns whether a name matches a pattern, in which `*` stands for any characters."""
    letters = ".*".join(map(re.escape, fold_case(pattern).split("*")))
    return re.fullmatch(letters, fold_case(name), re.DOTALL) is not None


def encode_name(name: str) -> str:
    """Returns a name as keys hold it: `my_first-one` is `my__first_2d_one`. No two names are encoded alike."""
    return "".join(map(encode_letter, name))


def encode_letter(letter: str) -> str:
    if PLAIN.fullmatch(letter):
        return letter
    return "__" if letter == "_" else f"_{ord(letter):x}_"


def decode_name(encoded: str) -> str | None:
    """Undoes `encode_name`; None for what it does not return."""
    if not ENCODED.fullmatch(encoded):
        return None
    with suppress(OverflowError, ValueError):
        name = ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else "_", encoded)
        return name if encode_name(name) == encoded else None
    return None


def format_entry_keys(alias: str, sequence: int) -> tuple[str, str]:
    """Returns the keys of an entry of an alias's history: today's and that of before."""
    number = f"{sequence:06d}"
    return f"{HISTORY_KEYS[0]}{encode_name(alias)}_{number}", f"{HISTORY_KEYS[1]}{alias}.{number}"


def parse_entry_key(key: str) -> str | None:
    """Returns the alias that a key of either kind is about; None unless it is one of a history's entry."""
    today, before = (pattern.fullmatch(key) for pattern in ENTRY_KEYS)
    if today:
        return decode_name(today["alias"])
    return before["alias"] if before else None


def format_older_key(alias: str) -> str:
    """Returns the key that tells where the older entries of an alias's history are."""
    return f"{HISTORY_KEYS[0]}{encode_name(alias)}_older"


def format_evidence_keys(dataset_digest: str, alias: str) -> tuple[str, str]:
    """Returns the keys of evidence: today's and that of before. Read from the left, `_for_` is no encoded letter."""
    today = f"{EVIDENCE_KEYS[0]}{encode_name(dataset_digest)}_for_{encode_name(alias)}"
    return today, f"{EVIDENCE_KEYS[1]}{dataset_digest}.{alias}"


def is_history_key(key: str) -> bool:
    """Returns whether a server may take a key for one of a history."""
    return fold_case(key).startswith(HISTORY_KEYS)


def is_evidence_key(key: str, alias: str = "") -> bool:
    """Returns whether a server may take a key for one of evidence, of any alias or of this one."""
    folded, ends = fold_case(key), (f"_for_{encode_name(alias)}", f".{alias}") if alias else ("", "")
    begun = zip(EVIDENCE_KEYS, ends, strict=True)
    return any(folded.startswith(begin) and folded.endswith(fold_case(end)) for begin, end in begun)
