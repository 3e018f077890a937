"""The records that are stored: the desired state of operators, samples and feedback. Pure: values without I/O."""
