"""`SinkConformance`: what every sink has to pass, for the sinks in this package and for yours."""

from walcast.testing.conformance.suite import SinkConformance
from walcast.testing.conformance.world import Col, Event, Row, Tab, World

__all__ = ["Col", "Event", "Row", "SinkConformance", "Tab", "World"]
