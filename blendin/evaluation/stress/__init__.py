"""What moves a score of reasoning, or BlendIn's α, and not the reasoning's correctness."""
