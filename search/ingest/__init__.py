"""A folder of videos that is kept in the store: watched, extracted in a process of its own, and searched meanwhile."""

from supportset.search.ingest.ingest import Ingest
from supportset.search.ingest.messages import Order

__all__ = ["Ingest", "Order"]
