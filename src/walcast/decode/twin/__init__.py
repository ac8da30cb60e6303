"""The Python twin: the native decoder again, written for clarity. It decodes where there is no native module, and says
in the tests what the native one should have said."""

from walcast.decode.twin.assembler import PyAssembler
from walcast.decode.twin.catalog import PyCatalog
from walcast.decode.twin.copyin import PyCopyReader, py_snapshot_frames
from walcast.decode.twin.fault import DecodeFault
from walcast.decode.twin.frames import PyFrames
from walcast.decode.twin.rowset import PyRowSet

__all__ = [
    "DecodeFault",
    "PyAssembler",
    "PyCatalog",
    "PyCopyReader",
    "PyFrames",
    "PyRowSet",
    "py_snapshot_frames",
]
