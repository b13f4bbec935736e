"""Training: pairs of matched fields in, weights out. Knows torch, but neither MPI nor nbodykit."""
