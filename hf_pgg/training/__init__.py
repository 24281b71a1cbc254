"""`PGGTrainer` and what it needs: configuration, checks, checkpoints, the Hub, and trainers for biased groups."""
