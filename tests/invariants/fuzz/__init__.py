"""A seeded generator of rows as people have them, right and wrong, each with its truth known by construction."""
