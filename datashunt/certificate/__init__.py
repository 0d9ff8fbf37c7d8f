"""What may be promised of the kept items, and what proves it. Pure; numpy and scipy. Theory: docs/certificates.md.

    targets    what is promised            answers    what the LLM said of the audited items
    bounds     one look: exact binomial    betting    any number of looks, any propensity
    sequence   which thresholds, in what order, from `fit` answers
    choice     the lowest threshold that `judge` answers prove, or how many are missing
    ledger     δ over the life of a classifier
    plan       how many audits are worth their calls
    batch      the same about items that are all there

Imports errors only.
"""

from datashunt.certificate.answers import LEAST_PROPENSITY, Answers
from datashunt.certificate.batch import BatchPlan, batch_misses, batch_rate, batch_threshold, plan_batch
from datashunt.certificate.betting import share_bound, share_bound_weighted
from datashunt.certificate.bounds import audits_likely, audits_needed, most_misses, upper_bound
from datashunt.certificate.choice import Certificate, Finding, NotYet, certify, certify_anytime
from datashunt.certificate.ledger import Ledger, lifetime_share
from datashunt.certificate.plan import Plan, plan_audits
from datashunt.certificate.sequence import soonest, thresholds
from datashunt.certificate.targets import LabelAlpha, MinRecall, OfAll, OfKept, Target, check

__all__ = [
    "LEAST_PROPENSITY",
    "Answers",
    "BatchPlan",
    "Certificate",
    "Finding",
    "LabelAlpha",
    "Ledger",
    "MinRecall",
    "NotYet",
    "OfAll",
    "OfKept",
    "Plan",
    "Target",
    "audits_likely",
    "audits_needed",
    "batch_misses",
    "batch_rate",
    "batch_threshold",
    "certify",
    "certify_anytime",
    "check",
    "lifetime_share",
    "most_misses",
    "plan_audits",
    "plan_batch",
    "share_bound",
    "share_bound_weighted",
    "soonest",
    "thresholds",
    "upper_bound",
]
