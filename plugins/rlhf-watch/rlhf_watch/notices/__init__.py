"""Alarms sent elsewhere: a webhook or a mail. The training and the page go on whatever becomes of them."""
