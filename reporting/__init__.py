"""What lies in output/, told: found, compared, graded, and put on pages."""
