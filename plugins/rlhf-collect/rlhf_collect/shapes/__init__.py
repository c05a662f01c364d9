"""How a labelled item looks as a row of a file and as a group to train on. One kind a file."""
