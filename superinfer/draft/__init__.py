"""The view on which a scheduler decides: it can be asked, tried on, and taken back."""

from superinfer.draft.draft import MAX_STEPS, Draft

__all__ = ["MAX_STEPS", "Draft"]
