"""LLMSched Gym: scheduling compound LLM jobs on a simulated GPU cluster."""
