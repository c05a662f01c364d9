"""The language of recipes: YAML text -> checked options -> assembled objects."""
