"""Others' tests, of what we have under the same name: each module is a suite, with `pairs` and `compare` as in
`verification`."""
