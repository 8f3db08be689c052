"""Tables, figures and pages, made from records alone. Imports all but cli."""
