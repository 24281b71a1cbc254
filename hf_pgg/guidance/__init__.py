"""Input gradient guidance: forms of the loss, engines that differentiate it, one guided forward pass. Needs torch alone."""
