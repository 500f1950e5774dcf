"""Reads the compact form of Thrift, in which Parquet writes its footers and page headers.

Only to look at what a file claims before a library believes it, so whatever is unusual is refused: fields that come
twice, structures deeper than Parquet's, and what ends too early.
"""

from __future__ import annotations

from typing import Any

Struct = dict[int, Any]


class Long(int):
    """A number written as one of 64 bits. A reader that expects 32 bits passes over it, and the other way round."""


MAX_STRUCT_DEPTH = 16  # Parquet's own structures are 6 deep
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS, _LONG = (4, 5), 6


class ThriftError(ValueError):
    """The content is not the Thrift that Parquet writes."""


class EndsTooEarlyError(ThriftError):
    """The structure is longer than the content."""


def read_struct(content: bytes) -> tuple[Struct, int]:
    """The structure that `content` begins with, by the numbers of its fields, and how many bytes it takes.

    Raises ThriftError if there is none.
    """
    reader = _Reader(content)
    return reader.struct(0), reader.position


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def byte(self) -> int:
        if self.position >= len(self.content):
            raise EndsTooEarlyError("it ends too early")
        self.position += 1
        return self.content[self.position - 1]

    def skip(self, size: int) -> bytes:
        begin, self.position = self.position, self.position + size
        if self.position > len(self.content):
            raise EndsTooEarlyError("it ends too early")
        return self.content[begin : self.position]

    def varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ThriftError("a number is too long")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, depth: int) -> Struct:
        if depth > MAX_STRUCT_DEPTH:
            raise ThriftError("its structures are nested too deeply")
        found: Struct = {}
        number = 0
        while (header := self.byte()) & 0x0F != _STOP:
            number = number + (header >> 4) if header >> 4 else self.zigzag()
            if number in found:
                raise ThriftError("a field comes twice")
            kind = header & 0x0F
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self.value(kind, depth)
        return found

    def value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self.zigzag()
        if kind == _LONG:
            return Long(self.zigzag())
        if kind == _BINARY:
            return self.skip(self.varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self.items(depth)
        if kind in (_TRUE, _FALSE, _BYTE):  # in a list, a truth takes a byte too
            return self.byte()
        if kind == _DOUBLE:
            return self.skip(8)
        raise ThriftError("it has a field of a kind that Parquet does not use")

    def items(self, depth: int) -> list[Any]:
        header = self.byte()
        count = header >> 4 if header >> 4 < 15 else self.varint()
        if depth > MAX_STRUCT_DEPTH or count > len(self.content) - self.position:  # every item takes a byte at least
            raise ThriftError("a list is longer than what it is in")
        return [self.value(header & 0x0F, depth + 1) for _ in range(count)]
