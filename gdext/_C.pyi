"""The compiled library. Importing it registers the ops of torch.ops.gdext; it has no attributes."""
