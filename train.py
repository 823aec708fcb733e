"""Learn a scheduler: python train.py --help."""

from llmsched_gym.commands.train import main

if __name__ == "__main__":
    main()
