"""Bytes that lie in several places and need not be joined on their way out."""

from collections.abc import Iterable, Iterator

Body = bytes | bytearray | memoryview


class Pieces:
    """A bytes-like thing that is written as several; `bytes + Pieces` puts bytes before them.

    Equal to whatever holds the same bytes.
    """

    __slots__ = ("_length", "_parts")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parts: Iterable[Body]) -> None:
        self._parts = tuple(parts)
        self._length = sum(map(len, self._parts))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Body]:
        return iter(self._parts)

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)

    def __radd__(self, before: bytes) -> "Pieces":
        return Pieces((before, *self._parts))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Pieces | Body):
            return NotImplemented
        return len(self) == len(other) and bytes(self) == bytes(other)
