"""What people see in a browser. It knows the desk, not the tables."""
