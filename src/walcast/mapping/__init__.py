"""Tables to documents, vertices and edges: declared once, compiled for each table. Pure; standard library only.

```
DataMapping (model) -> compile_mapping -> Plan -> affected(batch) -> climb -> assemble -> Put
```
"""

from walcast.mapping.affected import Work, affected, climb
from walcast.mapping.assemble import assemble
from walcast.mapping.columns import columnar, ids_of, put_columns
from walcast.mapping.compile import MappingError, compile_mapping, near_name, table_id, tables_of
from walcast.mapping.declaring import (
    Declaration,
    Link,
    Part,
    declared_by,
    document,
    edge,
    mapping_of,
    search,
    vertex,
)
from walcast.mapping.model import DataMapping, Document, Edge, End, Field, Nested, Route, Through, Vertex
from walcast.mapping.plan import Node, Plan, Target

__all__ = [
    "DataMapping",
    "Declaration",
    "Document",
    "Edge",
    "End",
    "Field",
    "Link",
    "MappingError",
    "Nested",
    "Node",
    "Part",
    "Plan",
    "Route",
    "Target",
    "Through",
    "Vertex",
    "Work",
    "affected",
    "assemble",
    "climb",
    "columnar",
    "compile_mapping",
    "declared_by",
    "document",
    "edge",
    "ids_of",
    "mapping_of",
    "near_name",
    "put_columns",
    "search",
    "table_id",
    "tables_of",
    "vertex",
]
