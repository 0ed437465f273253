"""From records to numbers and tables: intervals, arms, equal gain, costs."""
