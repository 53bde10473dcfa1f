"""What psicli knows about the types of columns."""

from __future__ import annotations

import pyarrow as pa

# pyarrow cannot select rows of views, so their values are read as these types.
VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
