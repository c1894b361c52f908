"""Few-shot tasks: episodic samplers over arrays in memory, and data sets to draw them from.

from fastmaml.tasks import Glyphs
sampler = Glyphs("train").episodes(way=5, shot=1, query=5)
for episodes in sampler:  # endless; each is a meta-batch
    support_x, support_y, query_x, query_y = episodes
"""

from .dataset import ClassDataset
from .episodes import Episodes, EpisodeSampler, TaskSampler
from .folder import CharacterFolder
from .glyphs import Glyphs
from .sinusoid import Sinusoid

__all__ = [
    "CharacterFolder",
    "ClassDataset",
    "EpisodeSampler",
    "Episodes",
    "Glyphs",
    "Sinusoid",
    "TaskSampler",
]
