"""pgoutput and COPY to batches: the native decoder, and the Python twin that is its fallback and its oracle."""

from walcast.decode.batch import IdleBatch, StreamBatch

__all__ = ["IdleBatch", "StreamBatch"]
