"""Everything that only reads records: statistics, tables, figures, pages."""
