"""The base of every record: immutable, keyword-only, refuses unknown fields."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An immutable value with named fields. Decoding (not constructing) checks types."""
