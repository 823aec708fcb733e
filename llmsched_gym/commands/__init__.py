"""The commands: what `evaluate.py` and `train.py` at the root of a checkout are doors to."""
