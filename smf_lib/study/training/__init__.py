"""How a model is trained, the same for every method, on one process or several."""
