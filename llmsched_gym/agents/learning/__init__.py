"""How anything is learnt: runs, held-out episodes, logs and checkpoints. It knows no learner."""
