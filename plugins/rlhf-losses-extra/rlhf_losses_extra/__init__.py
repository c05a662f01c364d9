"""Preference losses beyond DPO and IPO; each file is a plugin of its own."""
