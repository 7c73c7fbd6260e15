"""The networks, in plain PyTorch, each in one file that can be read in one sitting."""
