"""What the operations are compared with, beside the oracle's cases: each module has `pairs` and `compare`, as
`verification` has."""
