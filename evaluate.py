"""Compare a scheduling policy with baselines: python evaluate.py --help."""

from llmsched_gym.commands.evaluate import main

if __name__ == "__main__":
    main()
