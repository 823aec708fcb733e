"""The commands: what `evaluate.py` and `train.py` at the root of a checkout are doors to."""

from llmsched_gym.errors import need

try:
    need("commands", "the commands", "hydra", "rich", "pandas", "matplotlib", "pydantic", "PIL")
except ImportError as error:  # a line for whoever has the environment alone
    raise SystemExit(f"llmsched-gym: {error}") from None
