"""gzip and zstd payloads, told by their first bytes; the inflated size is bounded before it is made."""

import zlib

import zstandard

GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"
MAGIC = (GZIP, ZSTD)
"""No payload of a format that the gateway knows begins like this."""

_WINDOW = 8 << 20  # bytes; the largest window that RFC 8878 asks a decoder to support
_AS_GZIP = 16 + zlib.MAX_WBITS


class TooLarge(ValueError):
    """It would be larger than allowed."""


def inflate(data: bytes, limit: int) -> bytes:
    """The content of a gzip or zstd payload; any other payload as it is.

    limit: bytes that the content may have; at most one more is ever made. Raises TooLarge; ValueError
    where the stream is broken, cut off, or followed by anything.
    """
    if data.startswith(GZIP):
        return _gzip(data, limit)
    return _zstd(data, limit) if data.startswith(ZSTD) else data


def _gzip(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(_AS_GZIP)
    try:
        content = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"broken gzip: {error}") from error
    if len(content) > limit:
        raise TooLarge("gzip")
    if not stream.eof or stream.unused_data:
        raise ValueError("gzip: cut off, or something follows it")
    return content


def _zstd(data: bytes, limit: int) -> bytes:
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
    if not frame.eof or frame.unused_data:
        raise ValueError("zstd: cut off, or something follows it")
    return content
