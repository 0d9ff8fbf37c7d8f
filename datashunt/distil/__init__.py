"""Two-stage confidence distillation: from the LLM's answers to a challenger's bundle. Needs torch.

It reads no database and knows no judge answers: it gets examples, writes a folder, and reports its progress.
"""

from datashunt.distil.plan import Challenger, Example, Plan, Progress
from datashunt.distil.run import distil

__all__ = ["Challenger", "Example", "Plan", "Progress", "distil"]
