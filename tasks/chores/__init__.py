"""What is done to a lake beside its nights: forget people, upkeep, relabel, report."""
