"""What both faces say of runs, plans, comparisons, space and models: data in, rows out. No click, no Textual."""
