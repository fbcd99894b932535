"""One folder a framework; `lstmbridge.contract` says what is in each."""
