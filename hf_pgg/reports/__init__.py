"""What a run leaves behind: its record, its model card, its figures, and the comparison of several runs."""
