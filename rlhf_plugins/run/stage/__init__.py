"""One stage of a run: where it starts, what it is given, how it goes on, what it leaves."""
