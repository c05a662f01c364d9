"""Preference data from people: studies in a folder, a page to judge on, and releases that a recipe trains on."""
