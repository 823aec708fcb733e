"""LLMSched Gym: scheduling compound LLM jobs on a simulated GPU cluster.

Importing it registers ``LLMSched-v0`` with Gymnasium.
"""

from gymnasium.envs.registration import register, registry

__version__ = "0.1.0"

if "LLMSched-v0" not in registry:
    register(
        "LLMSched-v0",
        entry_point="llmsched_gym.env.named:make",
        vector_entry_point="llmsched_gym.env.named:make_vec",
    )
