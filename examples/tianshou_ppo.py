"""tianshou: its PPO, with masks where its collector looks for them (``obs`` and ``mask``).

python examples/tianshou_ppo.py
"""

from __future__ import annotations
