"""What stands around a payload, told by its first bytes: gzip and zstd, whose inflated size is bounded before
it is made, and a byte order mark."""

import zlib

import zstandard

GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some write before UTF-8; readers of JSON may pass over it (RFC 8259, 8.1)."""
MAGIC = (GZIP, ZSTD, BYTE_ORDER_MARK)
"""No payload of a format that the gateway knows begins like this."""

_WINDOW = 8 << 20  # bytes; the largest window that RFC 8878 asks a decoder to support
_MOST_PARTS = 64  # each costs a copy of what stands behind it
_AS_GZIP = 16 + zlib.MAX_WBITS


class TooLarge(ValueError):
    """It would be larger than allowed."""


def inflate(data: bytes, limit: int) -> bytes:
    """The content of a gzip or zstd payload, any other payload as it is; without a byte order mark.

    Several gzip members or zstd frames (64 at most) are one content, as their specifications say. limit: bytes that it may
    have; at most one more is ever made. Raises TooLarge; ValueError where the stream is broken, cut off, or
    followed by anything else.
    """
    part = _member if data.startswith(GZIP) else _frame if data.startswith(ZSTD) else None
    if part is None:
        return data.removeprefix(BYTE_ORDER_MARK)
    contents: list[bytes] = []
    while data:
        if len(contents) == _MOST_PARTS:
            raise ValueError(f"more than {_MOST_PARTS} gzip members or zstd frames")
        content, data = part(data, limit)
        contents.append(content)
        limit -= len(content)
    return b"".join(contents).removeprefix(BYTE_ORDER_MARK)


def _member(data: bytes, limit: int) -> tuple[bytes, bytes]:
    """(content of the gzip member that `data` begins with, the bytes behind it)"""
    stream = zlib.decompressobj(_AS_GZIP)
    try:
        content = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"broken gzip: {error}") from error
    if len(content) > limit:
        raise TooLarge("gzip")
    if not stream.eof:
        raise ValueError("gzip: cut off")
    return content, stream.unused_data


def _frame(data: bytes, limit: int) -> tuple[bytes, bytes]:
    """(content of the zstd frame that `data` begins with, the bytes behind it)"""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    try:
        with decompressor.stream_reader(data) as stream:
            if len(stream.read(limit + 1)) > limit:
                raise TooLarge("zstd")
        # Now that its size is known to be bounded: only this one tells where the frame ended.
        frame = decompressor.decompressobj()
        content = frame.decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(f"broken zstd: {error}") from error
    if not frame.eof:
        raise ValueError("zstd: cut off")
    return content, frame.unused_data
