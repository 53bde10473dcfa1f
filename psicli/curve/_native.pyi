from typing_extensions import Buffer

def paths() -> tuple[str, ...]: ...
def hash_to_points(
    path: str,
    offsets: Buffer,
    width: int,
    start: int,
    count: int,
    data: Buffer | None,
    prefix: Buffer,
    dst: Buffer,
    /,
) -> bytes: ...
def hash_and_mask(
    path: str,
    offsets: Buffer,
    width: int,
    start: int,
    count: int,
    data: Buffer | None,
    prefix: Buffer,
    dst: Buffer,
    scalar: Buffer,
    /,
) -> bytes: ...
def keyed_hashes(
    path: str, offsets: Buffer, width: int, start: int, count: int, data: Buffer | None, secret: Buffer, /
) -> bytes: ...
def mask(path: str, points: Buffer, scalar: Buffer, /) -> tuple[bytes, list[int]]: ...
def tokens(path: str, points: Buffer, prefix: Buffer, /) -> bytes: ...
def on_curve(path: str, points: Buffer, /) -> bool: ...
def order(records: Buffer, width: int, /) -> tuple[bytes, bytes]: ...
def seen(records: Buffer, others: Buffer, width: int, /) -> bytes: ...
def field(path: str, op: str, a: Buffer, b: Buffer, /) -> bytes: ...
