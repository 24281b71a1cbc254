"""What a user runs: one flat script a task."""
