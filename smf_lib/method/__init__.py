"""The method, alone: imports torch, transformers, peft, safetensors, tqdm, and nothing of ours."""
