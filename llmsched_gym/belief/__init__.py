"""What is known of unfinished jobs: Bayesian networks over their stages."""
