"""The losses, by family: each file opens with the idea, and each loss with its formula and paper."""
