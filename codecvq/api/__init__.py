"""What plugins are written against: the hooks and the specs that they yield."""
