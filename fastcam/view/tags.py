"""Tags that a person gives to maps, kept in a Parquet file beside each folder's shards."""

import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fastcam.dataset.durable_files import write_replacing
from fastcam.view.table import Table

NAME = "tags.parquet"
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("method", pa.string()),
        pa.field("layer", pa.string()),
        pa.field("target", pa.int32()),
        pa.field("detection", pa.int32()),
        pa.field("tag", pa.int32(), nullable=False),  # 1 to 9
    ]
)


class Tags:
    """The tags of a table, read when this is made, and written whenever they change.

    Args:
        table: of the rows.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._lock = threading.Lock()
        for number, maps in enumerate(table.stores):
            file = Path(maps.store.folder) / NAME
            if file.exists():
                table.tag_again(pq.read_table(file, schema=SCHEMA).to_pylist(), number)

    def save(self) -> None:
        """Write the tags of every folder."""
        with self._lock:
            found = self.table.tagged()
            for number, maps in enumerate(self.table.stores):
                rows = [dict(zip(SCHEMA.names, row[1:], strict=True)) for row in found if row[0] == number]
                file = Path(maps.store.folder) / NAME
                if rows or file.exists():
                    buffer = pa.BufferOutputStream()
                    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), buffer)
                    write_replacing(file, buffer.getvalue().to_pybytes())
