"""fastmaml: inner loops of meta-learning and their exact meta-gradients, fast.

>>> import fastmaml as fm
>>> maml = fm.MAML(model, lr=0.1, steps=5)
>>> out = maml(support_x, support_y, query_x, query_y)
>>> out.loss.backward()
"""

from . import functional
from .algorithms import ANIL, MAML, Adapted, MetaLearner, MetaSGD
from .executors.generic import DerivativeWarning, GenericNote
from .functional import DerivativeOrderError, MetaLoss
from .plan import BackendError, Plan
from .program import TraceError

__version__ = "0.1.0"

__all__ = [
    "ANIL",
    "MAML",
    "Adapted",
    "BackendError",
    "DerivativeOrderError",
    "DerivativeWarning",
    "GenericNote",
    "MetaLearner",
    "MetaLoss",
    "MetaSGD",
    "Plan",
    "TraceError",
    "functional",
]
