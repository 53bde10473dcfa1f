"""A program that reads inputs on the nodes of a cluster and here, and compares all that either finds.

Arguments: the address of a cluster, and an empty folder. It prints a line for each input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 80_000
KEY, SKETCH_KEY = b"k" * 32, b"s" * 32
EXPECTED = [
    "duplicates.csv: 32 groups",
    "three.csv: 8 groups",
    "nulls.jsonl: 1 groups",
    "three.jsonl: 16 groups",
    "nulls.parquet: 8 groups",
    "three.parquet: 1 groups",
    "empty.csv: the head",
    "quotes.csv: the head",
    "one group.parquet: the head",
    "error.csv: the head",
    "changed.csv: the head",
]


def inputs(folder: Path) -> Iterator[tuple[str, list[str], int]]:
    """Write inputs; yield the name of each, its keys, and the size of a group [bytes]."""
    ids = ["" if n % 11 == 0 else "none" if n % 9973 == 0 else f"Kéy{n % 30_000}" for n in range(ROWS)]
    table = pa.table({"id": [each or None for each in ids], "x": pa.array(np.arange(ROWS) % 3), "y": ids})
    lines = [f"{each},{n % 3},{each}\n" for n, each in enumerate(ids)]

    def written(name: str, text: str) -> str:
        (folder / name).write_text(text)
        return name

    csv = "id,x,y\n" + "".join(lines)
    yield written("duplicates.csv", csv), ["id"], len(csv.encode()) // 30
    yield written("three.csv", csv), ["y", "x", "id"], len(csv.encode()) // 7
    objects = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    yield written("nulls.jsonl", objects), ["id"], len(objects)
    yield written("three.jsonl", objects), ["id", "x", "y"], len(objects) // 12
    for name, keys, parts in (("nulls.parquet", ["id"], 7), ("three.parquet", ["id", "x", "y"], 1)):
        pq.write_table(table, folder / name, row_group_size=9000)
        yield name, keys, (folder / name).stat().st_size // parts
    yield written("empty.csv", "id\n"), ["id"], 1
    yield written("quotes.csv", csv), ["id"], 1
    pq.write_table(table, folder / "one group.parquet")
    yield "one group.parquet", ["id"], 1
    lines[70_000] = "7,7\n"
    yield written("error.csv", "id,x,y\n" + "".join(lines)), ["id"], len(csv) // 4
    yield written("changed.csv", csv), ["id"], len(csv) // 4


def main(address: str, folder: Path) -> None:
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    # Imported late: a test without Ray imports this module, too.
    import ray

    from psicli import tables
    from psicli.core.formats import Dialect, file_format
    from psicli.items.forms.names import Form
    from psicli.items.sketches import Sketch
    from psicli.ray.connection import Cluster
    from psicli.ray.reading import Sizes, read_on_nodes

    ray.init(address, namespace="test", log_to_driver=False, configure_logging=False, logging_level="fatal")
    cluster = Cluster(address, (), ())
    for name, keys, group in inputs(folder):
        path = folder / name
        kind = file_format(path, Dialect(quotes=name == "quotes.csv"))
        forms = [Form("digits" if name.startswith("three") and key != "x" else "text") for key in keys]
        opening = partial(tables.open_input, path, kind, keys, forms=forms, output=file_format("x.csv"))
        where: Any = cluster if name != "changed.csv" else SimpleNamespace(nodes=partial(changing, path, cluster.nodes))
        sketch = Sketch(SKETCH_KEY)
        share = path.stat().st_size // 5
        read = read_on_nodes(where, opening, KEY, sketch, Sizes(0, share, share, group))
        if read is None:
            assert (sketch.items, sketch.buckets.any()) == (0, False)
            print(f"{name}: the head")
            continue
        print(f"{name}: {len(read[0]._groups)} groups")
        compare((*read, sketch), opening)
    ray.shutdown()


def changing(path: Path, nodes: Callable[[], Any]) -> Any:
    """Change a file after the head has opened it, and return the nodes."""
    path.write_bytes(path.read_bytes())
    return nodes()


def compare(read: tuple[Any, Any, Any, Any], opening: Callable[[], Any]) -> None:
    """Compare what the nodes have read with what this process reads."""
    import ray

    from psicli.items.encoding import encode_items
    from psicli.items.partitions import Matches, Partitioner
    from psicli.items.sketches import Sketch
    from psicli.items.spelling import Spellings

    items, source, spellings, sketch = read
    here, own_sketch, own_spellings = opening(), Sketch(SKETCH_KEY), Spellings(source.keys, source.columns.forms)
    partitioner = Partitioner(KEY, visit=own_sketch.add)
    for texts in here.key_batches():
        partitioner.add(encode_items(texts))
        own_spellings.add(texts, here.schema)
    own = partitioner.finish()
    assert source.columns.unfit == here.columns.unfit
    assert (len(items), items.rows, items.null_keys) == (len(own), own.rows, own.null_keys)
    assert (sketch.items, sketch.buckets.tobytes()) == (own_sketch.items, own_sketch.buckets.tobytes())
    assert [*spellings.findings(own.null_keys)] == [*own_spellings.findings(own.null_keys)]
    assert spellings.columns(source.schema) == own_spellings.columns(here.schema)
    assert (source.rows, source.schema) == (here.rows, here.schema)
    on_a_node = ray.remote(num_cpus=0)(all_items)
    for bins in (1, 4, 512):
        assert items.starts(bins) == own.starts(bins)
        matches = Matches(own.starts(bins))
        for number in {*range(min(bins, 5)), bins - 1}:
            there, expected = items.bin(number, bins, 0), all_items(partial(own.bin, number, bins, sys.maxsize))
            assert ray.get(on_a_node.remote(there.recipe, *there.refs)) == expected
            assert there.take(np.arange(len(there), dtype=np.uint32)).to_pylist() == expected
            matches.put(number, np.arange(len(there)) % 3 == 1)
        mask = own.row_mask(matches)
        assert items.row_mask(matches).equals(mask)
    assert tables_of(source, mask).equals(tables_of(here, mask))
    items.close()
    source.close()
    here.close()


def all_items(recipe: Callable[..., Any], *loaded: Any) -> list[bytes]:
    items = recipe(*loaded)
    found: list[bytes] = items.take(np.arange(len(items), dtype=np.uint32)).to_pylist()
    return found


def tables_of(source: Any, mask: Any) -> Any:
    return pa.concat_tables(source.matched(mask, 1 << 30))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
