"""The Hydra configuration; its groups are filled from the registries (``commands/groups.py``)."""
