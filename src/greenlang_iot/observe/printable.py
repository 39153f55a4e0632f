"""Text from outside, made safe for a terminal and a log line."""

import re

# C0 and C1 controls and DEL can move the cursor or fake lines; the bidirectional marks can reorder
# what a person reads; line and paragraph separators fake lines; lone surrogates cannot be encoded.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_UNSAFE_IN_BLOCK = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(text: str) -> str:
    """`text` on one line, with control characters as escapes (`\\x1b`, `\\u202e`)."""
    return _UNSAFE.sub(_escape, text)


def printable_block(text: str) -> str:
    """Like `printable`, but keeps line feeds and tabs: for tracebacks."""
    return _UNSAFE_IN_BLOCK.sub(_escape, text)


def printable_json(text: str) -> str:
    """A JSON text that means the same, with control characters in its strings as `\\u009b`."""
    return _UNSAFE_IN_BLOCK.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
