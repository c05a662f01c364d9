"""What loaded preferences look like. It reads groups and changes nothing."""
