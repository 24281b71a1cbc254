"""`evaluate` modules over the metrics, one folder each, as the Hub wants them."""
