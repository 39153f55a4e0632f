"""An append-only log of checksummed records in segment files: spool, lake log and outbox use it."""
