"""What arrives: jobs, applications, traces, arrival processes."""
