"""TensorFlow 1's cells: their layouts, for arrays that are already at hand."""

NAME = "tf1"
ROOTS = ()
SUFFIXES = ()
EXTRA = ""
