"""`SinkConformance`, and `DerivedConformance` for stores of documents, vertices and edges: what every sink has to pass, for the
sinks in this package and for yours."""

from walcast.testing.conformance.derived import DerivedConformance
from walcast.testing.conformance.histories import Content
from walcast.testing.conformance.suite import SinkConformance
from walcast.testing.conformance.world import Col, Event, Row, Tab, World

__all__ = ["Col", "Content", "DerivedConformance", "Event", "Row", "SinkConformance", "Tab", "World"]
