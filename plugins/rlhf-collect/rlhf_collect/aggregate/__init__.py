"""From the votes on items to a label, how sure it is, and how able each person is."""
