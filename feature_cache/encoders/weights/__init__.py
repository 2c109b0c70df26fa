"""Where an encoder's weights are, how they get there, and how they are read without running code."""
