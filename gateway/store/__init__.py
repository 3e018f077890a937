"""The store: keys, catalog, routes, rollouts, samples, pairs and feedback; and the route table for workers."""
