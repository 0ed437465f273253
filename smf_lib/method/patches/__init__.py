"""Row patches: what a finetune changed in the tables, to save, take out again and put together."""
