"""Checkpoints: folders that appear whole, in the sharded safetensors format of torch.distributed.checkpoint."""
