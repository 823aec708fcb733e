"""The applications fitted to measured jobs: ``python -m llmsched_gym.workload.fitting``."""
