"""One step a file. A step is never changed once it was released; a new one is added."""
