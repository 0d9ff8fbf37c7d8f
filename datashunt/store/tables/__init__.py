"""The tables: one for each of the design's words. Imports nothing of datashunt but the states.

PostgreSQL is the one truth; these rows outlive every process. Times are the database's own. Probability
vectors are `real[]` in the label order of their spec version; a NULL element is a label that was not offered.
"""

from datashunt.store.tables import batches, items, models, money, past, samples, workers
from datashunt.store.tables.base import Base

__all__ = ["Base", "batches", "items", "models", "money", "past", "samples", "workers"]
