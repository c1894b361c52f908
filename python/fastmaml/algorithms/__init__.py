"""Algorithms as modules: the model's own parameters are the meta-parameters."""

from .anil import ANIL
from .maml import MAML
from .meta_sgd import MetaSGD
from .wrapper import Adapted, MetaLearner

__all__ = ["ANIL", "MAML", "Adapted", "MetaLearner", "MetaSGD"]
