"""The engine: one source, many sinks, exactly once where the target can. It knows only the ports of `walcast.model`."""

from walcast.engine.control import ControlError, NotRunning, call, call_blocking
from walcast.engine.history import Switch
from walcast.engine.metrics import METRICS, Metrics, Sample
from walcast.engine.ownership import owned, owner
from walcast.engine.pipeline import Pipeline
from walcast.engine.policy import POLICY, Action, Verdict, classify
from walcast.engine.settings import PipelineSettings
from walcast.engine.statefile import StateFile, adopt_slot, request_resync
from walcast.engine.status import PipelineStatus, Problem, SinkState, SinkStatus, SourceStatus, StoppedTable

__all__ = [
    "METRICS",
    "POLICY",
    "Action",
    "ControlError",
    "Metrics",
    "NotRunning",
    "Pipeline",
    "PipelineSettings",
    "PipelineStatus",
    "Problem",
    "Sample",
    "SinkState",
    "SinkStatus",
    "SourceStatus",
    "StateFile",
    "StoppedTable",
    "Switch",
    "Verdict",
    "adopt_slot",
    "call",
    "call_blocking",
    "classify",
    "owned",
    "owner",
    "request_resync",
]
