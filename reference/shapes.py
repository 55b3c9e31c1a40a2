"""Operations that move elements, in PyTorch."""
