"""Which algorithm the preferences at hand ask for, what it costs, and how long it takes here."""
