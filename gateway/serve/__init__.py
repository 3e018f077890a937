"""The engine side: connections to engines, what streams back, and the engine process itself."""
