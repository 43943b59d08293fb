"""What gdext.FusedTrainer reads, and checks, of its arguments before anything is changed."""
