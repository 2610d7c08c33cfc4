"""One mesh over several ranks. Attention merges exactly: each rank gathers its own points, the partials are joined."""

from .merge import merge_across_ranks

__all__ = ["merge_across_ranks"]
