"""How a model is measured: scores, the paper's protocols and lm-eval's, and their reader."""
