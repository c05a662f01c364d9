"""What a person is asked of an item: which of two, an order, ratings. One kind a file."""
