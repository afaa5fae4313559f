"""What the page says: tables, figures, galleries, limits."""
