"""The method, alone: it imports torch, transformers, peft, safetensors and nothing else of ours."""
