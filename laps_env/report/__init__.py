"""Everything that people read: tables, pictures, pages, timelines."""
