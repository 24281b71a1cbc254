"""Input gradient guidance: the loss (`forms`), its gradient (`engines`), a guided pass (`forward`). torch alone."""
