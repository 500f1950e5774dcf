"""Counts the reasons why images could not be read, each with an example."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pyarrow as pa

from mlflow_resnet.model.prediction import IMAGE
from mlflow_resnet.scoring.columns import ERROR, text_columns

MAX_REASONS = 100  # that are told apart, however many images there are
OTHERS = "other reasons"
WITH_DIGITS = re.compile(r"\w*\d\w*")  # a size, an offset, an address: of one image


@dataclass(frozen=True)
class Reason:
    """A reason, its first image, and the number of images that share it, digits aside."""

    text: str
    example: str
    count: int = 0


class Reasons:
    """Counts the reasons of unreadable images among scored rows."""

    def __init__(self) -> None:
        self.kinds: dict[str, Reason] = {}

    def add(self, rows: pa.Table) -> None:
        """Images without a label because the model is unsure are not meant."""
        text = text_columns(rows.column_names)
        probability = next(name for name in rows.column_names if name not in text)
        frame = rows.select([IMAGE, ERROR, probability]).to_pandas()
        unread = frame[frame[probability].isna()]
        for image, error in zip(unread[IMAGE], unread[ERROR], strict=True):
            kind, reason = WITH_DIGITS.sub("…", error), Reason(error, image)
            if kind not in self.kinds and len(self.kinds) >= MAX_REASONS:
                kind, reason = OTHERS, Reason(OTHERS, image)
            known = self.kinds.get(kind, reason)
            self.kinds[kind] = replace(known, count=known.count + 1)

    def by_count(self) -> tuple[Reason, ...]:
        """The most frequent first."""
        return tuple(sorted(self.kinds.values(), key=lambda reason: -reason.count))
