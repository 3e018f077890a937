"""What is stored, as values: the state that operators have asked for, samples, feedback. Pure."""
