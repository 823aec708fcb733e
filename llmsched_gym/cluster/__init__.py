"""What runs it: LLM engines and regular executors, simulated exactly."""
