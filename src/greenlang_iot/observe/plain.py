"""Imported first: structlog without rich, which it would take 0.05 s to import for tracebacks that we write as text."""

from greenlang_iot.model.imports import import_without

import_without("structlog", "rich")
